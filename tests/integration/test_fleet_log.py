"""The log of a fleet on real Consul: its writers, what it survives, its limits."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.errors import ConsulUnavailable, Contended, LogLost, UnknownFormat
from agentd.fleet.envelope import LARGEST, LARGEST_BODY, Draft, Envelope
from agentd.fleet.head import Head
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.kv import MOST_READS, ConsulKV, cas, delete
from agentd.fleet.log import Log
from agentd.fleet.memory import FILE, Memory
from agentd.fleet.pruning import LEAST, MOST, PRUNED_AT_ONCE
from agentd.watch.client import ConsulClient
from agentd.watch.kv import Operation
from agentd.watch.options import ConsulOptions
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until
from tests.unit.fleet.kv_model import ModelKV

NAME = "deploy"
ROUNDS = 1000


@pytest.fixture
def keys() -> Keys:
    """A fleet of the test's own."""
    return Keys(f"f{free_port()}")


@contextmanager
def store(agent: ConsulAgent) -> Iterator[ConsulKV]:
    """One connection."""
    with closing(ConsulClient(ConsulOptions(address=agent.url))) as client:
        yield ConsulKV(client)


@pytest.fixture
def kv(consul: ConsulAgent) -> Iterator[ConsulKV]:
    """One connection to the agent that all tests share."""
    with store(consul) as made:
        yield made


@pytest.fixture
def log(kv: ConsulKV, keys: Keys) -> Iterator[Log]:
    """One writer, of a fleet that is removed at the end."""
    made = Log(kv, keys)
    yield made
    kv.delete_all(keys.root)


def event(number: int, *, body: bytes = b"x") -> Draft:
    """An event that a node heard."""
    return Draft(body, issued=time.time(), publisher="lb1", via="event", id=f"e{number}")


def messages(log: Log) -> list[Envelope]:
    """All that the log has."""
    return [one for page in log.after(NAME, 0, log.head(NAME)) for one in page.messages]


def fill(log: Log, count: int, *, first: int = 0, age: float = 0.0) -> None:
    """Append so many events."""
    for at in range(first, first + count, 30):
        drafts = [event(number) for number in range(at, min(at + 30, first + count))]
        log.append(NAME, [replace(one, issued=one.issued - age) for one in drafts], keep="all")


def bring(log: Log, draft: Draft, *, seconds: float = 60.0) -> None:
    """As a relay does: until it is in the log, reading on after each failure."""

    def landed() -> bool:
        try:
            return draft.id in log.append(NAME, [draft], keep="all")
        except (Contended, ConsulUnavailable):
            return False

    wait_until(landed, f"{draft.id} in the log", seconds=seconds, pause=0.005)


# ---------------------------------------------------------------------- the store


Step = Callable[[ConsulKV | ModelKV], object]
"""One request; what it returns is to be the same of both."""


def index_of(store: ConsulKV | ModelKV, key: str, kind: int) -> int:
    """The right one, that of no key, or a wrong one."""
    pair = store.pair(key)
    return [pair.index if pair else 0, 0, 1][kind]


def draw_step(chance: random.Random, names: list[str]) -> Step:
    """Any request that writes."""
    key, value = chance.choice(names), chance.choice([b"", b"1", b"2"])
    kind, flags = chance.choice([0, 0, 0, 1, 2]), chance.randrange(2)
    drawn = chance.random()
    if drawn < 0.15:
        return lambda store: store.replace(key, value, flags, index_of(store, key, kind))
    if drawn < 0.25:
        return lambda store: store.delete(key)
    if drawn < 0.35:
        return lambda store: store.delete(key, index_of(store, key, 2 * (kind // 2)))
    if drawn < 0.38:
        return lambda store: store.delete_all(key)
    makers = [draw_operation(chance, one) for one in chance.sample(names, chance.randint(1, len(names)))]
    return lambda store: [at for at, _ in store.write([make(store) for make in makers]).failures]


def draw_operation(chance: random.Random, key: str) -> Callable[[ConsulKV | ModelKV], Operation]:
    """One part of a transaction; its index is read before the transaction."""
    value, kind = chance.choice([b"1", b"2"]), chance.choice([0, 0, 1])
    which = chance.randrange(3)
    if which == 0:
        return lambda _: delete(key)
    if which == 1:
        return lambda _: {"Verb": "set", "Key": key, "Value": value}
    return lambda store: cas(key, value, index_of(store, key, kind))


@pytest.mark.parametrize("seed", range(3))
def test_the_model_of_the_store_answers_as_consul_does(kv: ConsulKV, key_prefix: str, seed: int) -> None:
    """The same random requests to both: what is found, refused, and counted as a change."""
    chance, model = random.Random(seed), ModelKV()
    names = [f"{key_prefix}{name}" for name in ("a", "b", "b/c", "d")]
    for _ in range(150):
        step = draw_step(chance, names)
        before = kv.pairs(names), model.pairs(names)
        assert step(kv) == step(model)
        assert kv.keys(key_prefix) == model.keys(key_prefix)
        after = kv.pairs(names, consistent=True), model.pairs(names)
        real, modelled = ({key: (one.value, one.flags) for key, one in pairs.items()} for pairs in after)
        assert real == modelled
        changed, expected = (
            {key for key in now if key not in then or then[key].index != now[key].index}
            for then, now in zip(before, after, strict=True)
        )
        assert changed == expected


def test_many_keys_are_read_in_transactions(kv: ConsulKV, key_prefix: str) -> None:
    """Those that are not there are left out, and others that begin alike as well."""
    names = [f"{key_prefix}{number}" for number in range(2 * MOST_READS + 5)]
    for at in range(0, len(names), 60):
        kv.write([cas(name, b"1", 0) for name in names[at : at + 60]])
    assert set(kv.pairs([*names, f"{key_prefix}x"])) == set(names)
    kv.delete_all(key_prefix)


# ---------------------------------------------------------------------- writers


def test_two_writers_at_once_make_one_message_of_each_event(consul: ConsulAgent, log: Log) -> None:
    """A thousand rounds, and the log has every event once."""
    barrier = threading.Barrier(2, timeout=60)
    troubles: list[BaseException] = []

    def write() -> None:
        try:
            with store(consul) as kv:
                writer = Log(kv, log.keys)
                for number in range(ROUNDS):
                    barrier.wait()
                    bring(writer, event(number))
        except BaseException as error:  # noqa: BLE001 (told by the test)
            troubles.append(error)
            barrier.abort()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert troubles == []
    assert Counter(one.id for one in messages(log)) == {f"e{number}": 1 for number in range(ROUNDS)}


def test_a_leader_that_dies_while_nodes_write_costs_and_doubles_nothing(
    new_consul: Callable[..., ConsulAgent], keys: Keys
) -> None:
    """Three servers, two writers of the same events, the leader killed in the middle."""
    first = new_consul(node="s1")
    others = [new_consul(node=f"s{n}", address=f"127.0.0.{n}", join=first, server=True) for n in (2, 3)]
    wait_until(
        lambda: len([s for s in first.get("/v1/operator/raft/configuration")["Servers"] if s["Voter"]]) == 3,
        "three servers that vote",
    )
    written: list[int] = []
    troubles: list[BaseException] = []

    def write(agent: ConsulAgent) -> None:
        try:
            with store(agent) as kv:
                writer = Log(kv, keys)
                for number in range(200):
                    bring(writer, event(number), seconds=120)
                    written.append(number)
        except BaseException as error:  # noqa: BLE001 (told by the test)
            troubles.append(error)

    threads = [threading.Thread(target=write, args=(agent,)) for agent in others]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(written) > 60, "some events in the log")
    first.kill()
    for thread in threads:
        thread.join(240)
    assert troubles == []
    with store(others[0]) as kv:
        found = messages(Log(kv, keys))
    assert Counter(one.id for one in found) == {f"e{number}": 1 for number in range(200)}


# ---------------------------------------------------------------------- limits


def test_a_transaction_is_as_large_as_it_may_be(log: Log) -> None:
    """Thirty messages, thirty-one deletes, the head and the list of what was pruned."""
    fill(log, 90)
    log.append(NAME, [replace(event(100), snapshot=True)], keep="all")
    fill(log, 30, first=200)
    head = log.head(NAME)
    assert head
    assert head.count == 90 + 1 + 30 - PRUNED_AT_ONCE - PRUNED_AT_ONCE
    assert len(messages(log)) == head.count


def test_more_than_the_most_are_pruned(log: Log) -> None:
    """The log keeps what it says, in order, without a gap."""
    fill(log, MOST + 4 * PRUNED_AT_ONCE)
    found, head = messages(log), log.head(NAME)
    assert head
    assert MOST <= len(found) == head.count <= MOST + PRUNED_AT_ONCE
    assert [one.prev for one in found[1:]] == [one.num for one in found[:-1]]
    assert (head.base, head.cut) == (found[0].prev, found[0].prev)


def test_the_least_stays_however_old(kv: ConsulKV, keys: Keys, log: Log) -> None:
    """A slow node still recognises its event."""
    age = 30 * 86400.0
    fill(Log(kv, keys, lambda: time.time() - age), LEAST + 200, age=age)
    for number in range(10):
        fill(log, 1, first=5000 + number)
    assert len(messages(log)) == LEAST
    assert log.append(NAME, [event(LEAST + 199)], keep="all")[f"e{LEAST + 199}"].written is False


def test_messages_with_bodies(log: Log) -> None:
    """The largest that stand in their message, as many as fit, and the largest of all."""
    drafts = [event(number, body=random.Random(number).randbytes(LARGEST_BODY)) for number in range(20)]
    drafts += [event(number, body=random.Random(number).randbytes(LARGEST)) for number in (20, 21)]
    tries = 0
    while len(log.append(NAME, drafts, keep="all")) < len(drafts):
        tries += 1
        assert tries < 10
    assert [log.payload(one) for one in messages(log)] == [draft.body for draft in drafts]


# ---------------------------------------------------------------------- what is lost


def held(log: Log, directory: Path) -> Memory:
    """What a node holds that has read it all."""
    memory = Memory(directory / FILE)
    head = log.head(NAME)
    assert head
    found = messages(log)
    bodies = {one.sha256: log.payload(one) or b"" for one in found if one.sha256}
    memory.remember(NAME, head, found, bodies)
    return memory


def everything(kv: ConsulKV, keys: Keys) -> dict[str, bytes]:
    """What lies below the fleet, without the index."""
    found = kv.pairs([key for key in kv.keys(keys.root) if "/messages/" in key or "/bodies/" in key])
    return {key: pair.value for key, pair in found.items()}


def write_back(log: Log, memory: Memory) -> int:
    """At once."""
    found = memory.held(NAME)
    assert found
    return log.write_back(NAME, found, body=memory.body, pause=lambda: None)


def test_a_wiped_store_has_everything_again(kv: ConsulKV, log: Log, tmp_path: Path) -> None:
    """Verbatim, and the next number is higher."""
    fill(log, 200)
    log.append(NAME, [event(300, body=b"x" * LARGEST)], keep="all")
    before = everything(kv, log.keys)
    with closing(held(log, tmp_path)) as memory:
        kv.delete_all(log.keys.root)
        with pytest.raises(LogLost):
            log.append(NAME, [event(301)], keep="all")
        assert memory.seems_lost(NAME, log.head(NAME))
        assert write_back(log, memory) == 201
    assert everything(kv, log.keys) == before
    last = messages(log)[-1].num
    assert log.append(NAME, [event(301)], keep="all")["e301"].num > last


def test_a_restored_snapshot_is_brought_up_to_date(
    new_consul: Callable[..., ConsulAgent], keys: Keys, tmp_path: Path
) -> None:
    """As `consul snapshot` takes and restores it; what was written since stays."""
    agent = new_consul()
    with store(agent) as kv, store(agent) as fresh:
        log = Log(kv, keys)
        fill(log, 40)
        snapshot(agent, "save", tmp_path / "old.snap")
        fill(log, 40, first=40)
        with closing(held(log, tmp_path)) as memory:
            before = everything(kv, keys)
            snapshot(agent, "restore", tmp_path / "old.snap")
            assert len(messages(log)) == 40
            bring(Log(fresh, keys), event(100))
            assert write_back(log, memory) == 40
        after = everything(kv, keys)
        assert before.items() <= after.items()
        assert Counter(one.id for one in messages(log)) == {f"e{n}": 1 for n in (*range(80), 100)}


def snapshot(agent: ConsulAgent, verb: str, file: Path) -> None:
    """Save or restore."""
    argv = ["consul", "snapshot", verb, str(file)]
    environment = {**os.environ, **agent.environment}
    subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("poison", ["garbage", "absurd", "empty", "missing", "gone"])
def test_a_poisoned_head_stops_no_writer(kv: ConsulKV, log: Log, poison: str) -> None:
    """It is made anew from the messages; no event is written twice."""
    fill(log, 40)
    key = log.keys.head(NAME)
    last = messages(log)[-1].num
    absurd = Head("all", POISONED - 1, 1, 3, recent=(POISONED - 1,)).render()
    pair = kv.pair(key)
    assert pair
    if poison == "garbage":
        kv.replace(key, b"\xff" * 5000, 0, pair.index)
    elif poison == "absurd":
        kv.replace(key, absurd, 0, pair.index)
    elif poison == "empty":
        kv.replace(key, Head("all", POISONED - 1, floor=POISONED - 1).render(), 0, pair.index)
    elif poison == "missing":
        kv.delete(log.keys.message(NAME, last))
    else:
        kv.delete(key)
    writer = Log(kv, log.keys)
    bring(writer, event(50))
    bring(writer, event(20))
    found = Counter(one.id for one in messages(log))
    assert max(found.values()) == 1
    assert found["e50"] == 1
    head = log.head(NAME)
    assert head
    assert head.count == sum(found.values())


def test_a_newer_head_waits(kv: ConsulKV, log: Log) -> None:
    """It is left as it is."""
    kv.replace(log.keys.head(NAME), b'{"format":99}', 0, 0)
    with pytest.raises(UnknownFormat):
        log.append(NAME, [event(1)], keep="all")
    pair = kv.pair(log.keys.head(NAME))
    assert pair
    assert pair.value == b'{"format":99}'


def test_forgotten_is_not_written_back(kv: ConsulKV, log: Log, tmp_path: Path) -> None:
    """By any node."""
    fill(log, 100)
    with closing(held(log, tmp_path)) as memory:
        assert log.forget(NAME) == 100
        assert write_back(Log(kv, log.keys), memory) == 0
    assert messages(log) == []
    assert not kv.keys(log.keys.messages(NAME))


def test_forgotten_stays_so_though_the_head_is_lost(kv: ConsulKV, log: Log, tmp_path: Path) -> None:
    """With junk in the log, for a node that was away, and whatever is published meanwhile."""
    fill(log, 100)
    with closing(held(log, tmp_path)) as memory:
        forgotten = messages(log)[69].num
        assert log.forget(NAME, forgotten) == 70
        kv.replace(log.keys.message(NAME, messages(log)[-1].num + 1), b"junk", 0, 0)
        bring(Log(kv, log.keys), event(100))
        kv.delete(log.keys.head(NAME))
        bring(Log(kv, log.keys), event(101))
        assert write_back(Log(kv, log.keys), memory) == 0
    head = log.head(NAME)
    assert head
    assert head.floor == forgotten
    assert [one.id for one in messages(log)] == [f"e{number}" for number in range(70, 102)]


def test_what_a_restored_snapshot_brings_back_is_forgotten_again(
    new_consul: Callable[..., ConsulAgent], keys: Keys, tmp_path: Path
) -> None:
    """By a node that was there when it was forgotten; also for those that come later, and for a new one."""
    agent = new_consul()
    with store(agent) as kv:
        log = Log(kv, keys)
        fill(log, 40)
        snapshot(agent, "save", tmp_path / "old.snap")
        log.forget(NAME, messages(log)[29].num)
        fill(log, 40, first=40)
        expected = messages(log)
        with closing(held(log, tmp_path)) as memory:
            snapshot(agent, "restore", tmp_path / "old.snap")
            bring(Log(kv, keys), event(100))
            assert memory.seems_lost(NAME, log.head(NAME))
            assert write_back(log, memory) == 40
        found = messages(log)
    assert found[: len(expected)] == expected
    assert [one.id for one in found[len(expected) :]] == ["e100"]

"""Faults of a fleet: nodes killed while they catch up, full rings, full disks, rights that go."""

from __future__ import annotations

import base64
import json
import os
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import Draft
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.log import Log
from agentd.fleet.writer import MOST_DRAFTS
from agentd.journal.entry import RELAY
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.integration.test_faults import fill as fill_disk
from tests.integration.test_faults import small_disk
from tests.servers.consul import ConsulAgent, ConsulAnswerError
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]
NewConsul = Callable[..., ConsulAgent]
KILLS = int(os.environ.get("AGENTD_KILLS", "10"))
MANY = 50 * KILLS
RING = 256
FLOOD = 6000


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet: `new_node("n1", consul)`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, consul: ConsulAgent, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            more: dict[str, Any] = {"fleet": fleet, "consul": consul, "event": fleet} | options
            node = FollowingNode(directory / name, name, **more)
            stack.callback(node.stop)
            return node

        yield make


def told(node: FollowingNode) -> dict[str, Any]:
    """What /status says of the fleet."""
    return dict(json.loads(node.agentd.get("/status")[1])["fleet"])


def commanding(fleet: str, done: Path) -> dict[str, Any]:
    """The handler of a node that runs a program for each message, which adds what it was given to a file."""
    shell = f'read -r given; echo "$given" >> {done}'
    return {"use": "command", "on": [{"event": fleet, "keep": "all"}], "options": {"shell": shell}}


def ran(done: Path) -> list[str]:
    """The payloads for which the program ran, in order."""
    lines = done.read_text().splitlines() if done.exists() else []
    return [base64.b64decode(json.loads(line)[0]["Payload"]).decode() for line in lines]


def append(consul: ConsulAgent, fleet: str, count: int) -> list[str]:
    """Append so many messages; returns their payloads."""
    payloads = [str(number) for number in range(count)]
    with open_log(consul, fleet) as log:
        for at in range(0, count, MOST_DRAFTS):
            drafts = [
                Draft(payload.encode(), time.time(), "test") for payload in payloads[at : at + MOST_DRAFTS]
            ]
            log.append(fleet, drafts, keep="all")
    return payloads


# ---------------------------------------------------------------- killed


def test_kill_9_while_it_catches_up_repeats_nothing_and_keeps_the_order(
    consul: ConsulAgent, fleet: str, new_node: NewNode, directory: Path
) -> None:
    """Hundreds of messages, random moments; a kill repeats at most the program that ran."""
    done = directory / "done"
    node = new_node("n1", consul)
    node.config["handlers"]["run"] = commanding(fleet, done)
    node.configure()
    node.start()
    node.stop()
    payloads = append(consul, fleet, MANY)
    draw = random.Random(20261127)

    for number in range(KILLS):
        node.agentd.process.spawn()
        if number % 2:  # at its start, perhaps before it does anything
            time.sleep(draw.uniform(0.1, 1.5))  # the moment is what is tried
        else:
            reached = done.stat().st_size if done.exists() else 0
            wait_until(
                partial(_is_longer, done, reached + draw.randint(0, 10_000)), "it to go on", pause=0.001
            )
            time.sleep(draw.uniform(0.0, 0.02))  # as above
        node.agentd.kill()
    node.start()

    wait_until(lambda: len(node.tally()) >= MANY, "all messages")
    assert node.tally() == payloads
    wait_until(lambda: ran(done)[-1:] == payloads[-1:], "the program to run for the last one")
    runs = ran(done)
    once = [payload for at, payload in enumerate(runs) if at == 0 or runs[at - 1] != payload]
    assert once == payloads
    assert len(runs) - len(once) <= KILLS


def _is_longer(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size > size


# ---------------------------------------------------------------- without the log


@pytest.fixture
def strict(new_consul: NewConsul) -> ConsulAgent:
    """Consul that denies what no rule grants."""
    return new_consul(acl=True)


@pytest.fixture
def poor(strict: ConsulAgent) -> str:
    """A token that may do all but touch the log."""
    rights = {"event_prefix": "write", "agent_prefix": "read", "node_prefix": "read"}
    return strict.make_token(" ".join(f'{one} "" {{policy = "{may}"}}' for one, may in rights.items()))


@pytest.fixture
def secret(directory: Path, poor: str) -> Path:
    """The file with the token of the node."""
    file = directory / "token"
    file.write_text(poor)
    return file


@pytest.fixture
def cut_off(
    strict: ConsulAgent, secret: Path, new_node: NewNode, fleet: str, directory: Path
) -> FollowingNode:
    """A node that hears events, and may not touch the log; it runs a program for each as well."""
    node = new_node("n1", strict, settings={"consul": {"address": strict.url, "token_file": str(secret)}})
    node.config["handlers"]["run"] = commanding(fleet, directory / "done")
    node.configure()
    node.start()
    node.agentd.await_listening()
    return node


def messages_of(consul: ConsulAgent, fleet: str) -> list[dict[str, Any]]:
    """The messages of the log, in order."""
    try:
        found = consul.get(f"/v1/kv/agentd/{fleet}/messages/{fleet}/?recurse")
    except ConsulAnswerError:  # there is none yet
        return []
    return [json.loads(base64.b64decode(one["Value"])) for one in found]


def log_of(consul: ConsulAgent, fleet: str) -> list[str]:
    """The payloads of the log, in order."""
    return [base64.b64decode(one["body"]).decode() for one in messages_of(consul, fleet)]


def fire(consul: ConsulAgent, name: str, payloads: Iterable[str]) -> None:
    """Fire an event for each."""
    for payload in payloads:
        consul.fire(name, payload.encode())


def has_applied(node: FollowingNode, count: int) -> bool:
    """Whether the node has applied so many."""
    return len(node.tally()) == count


def missed(node: FollowingNode) -> int:
    """How many events the node says that it missed."""
    (line,) = [
        one
        for one in node.agentd.get("/metrics")[1].splitlines()
        if one.startswith("agentd_events_missed_total")
    ]
    return int(float(line.split()[-1]))


def test_more_than_a_ring_while_the_log_is_out_of_reach_is_counted_and_nothing_comes_twice(
    cut_off: FollowingNode, strict: ConsulAgent, secret: Path, fleet: str, directory: Path
) -> None:
    """First while agentd runs, then while it does not; afterwards the log's order holds."""
    node, done = cut_off, directory / "done"
    for start in range(0, RING + 44, 50):  # no more at once than it hears
        fire(strict, fleet, [f"a{number}" for number in range(start, start + 50)])
        wait_until(partial(has_applied, node, start + 50), "the first events to be applied")
    heard = node.tally()
    wait_until(lambda: ran(done) == heard, "the program to run for each")
    node.stop()
    fire(strict, fleet, [f"b{number}" for number in range(RING + 44)])
    node.start()
    wait_until(lambda: len(node.tally()) == len(heard) + RING, "what the ring still has")
    lost = missed(node)
    wait_until(lambda: ran(done) == node.tally(), "the program to run for each")
    provisional = node.tally()
    secret.write_text(str(strict.token))
    node.agentd.reload()

    wait_until(lambda: len(log_of(strict, fleet)) == len(provisional), "all that was heard in the log")
    wait_until(lambda: node.tally() == provisional + log_of(strict, fleet), "the log's order on top")
    assert lost == 44
    assert sorted(log_of(strict, fleet)) == sorted(provisional)
    assert ran(done) == provisional


# ---------------------------------------------------------------- rights


def test_rights_that_go_and_come_back_lose_nothing(
    strict: ConsulAgent, poor: str, new_node: NewNode, fleet: str, directory: Path
) -> None:
    """Without them events are applied as they are heard, and that is told; then the log has them, once."""
    (policy,) = strict.request("GET", "/v1/acl/token/self", token=poor)["Policies"]
    rules = strict.get(f"/v1/acl/policy/{policy['ID']}")["Rules"]

    def grant(more: str) -> None:
        strict.put(f"/v1/acl/policy/{policy['ID']}", {"Name": policy["Name"], "Rules": f"{rules} {more}"})

    grant(f'key_prefix "agentd/{fleet}/" {{ policy = "write" }}')
    (directory / "token").write_text(poor)
    where = {"address": strict.url, "token_file": str(directory / "token"), "wait": "5s"}
    node = new_node("n1", strict, settings={"consul": where})
    node.config["handlers"]["run"] = commanding(fleet, directory / "done")
    node.configure()
    node.start()
    node.agentd.await_listening()
    fire(strict, fleet, ["1", "2"])
    node.await_tally("1", "2")

    grant("")
    fire(strict, fleet, ["3", "4"])
    node.await_tally("1", "2", "3", "4")
    wait_until(
        lambda: any(f'key_prefix "agentd/{fleet}/names/"' in one for one in told(node)["troubles"]),
        "the rule",
    )
    publish_as_manager(strict, directory, fleet, "5")
    grant(f'key_prefix "agentd/{fleet}/" {{ policy = "write" }}')
    wait_until(lambda: sorted(log_of(strict, fleet)) == list("12345"), "all in the log")
    fire(strict, fleet, ["6"])

    wait_until(lambda: node.tally()[-1:] == ["6"], "the next event")
    assert node.tally() == [*"1234", *log_of(strict, fleet)[2:]]
    wait_until(lambda: sorted(ran(directory / "done")) == list("123456"), "the program to run once for each")
    wait_until(lambda: not told(node)["troubles"], "the troubles to be over", pause=0.1)


def publish_as_manager(consul: ConsulAgent, directory: Path, fleet: str, payload: str) -> None:
    """Publish a message with all rights."""
    secret = directory / "manager"
    secret.write_text(str(consul.token))
    options = ConsulOptions(address=consul.url, token_file=secret)
    with closing(ConsulClient(options)) as client:
        draft = Draft(payload.encode(), time.time(), "test")
        Log(ConsulKV(client), Keys(fleet)).publish(fleet, draft, keep="all")


def test_a_token_that_is_rotated_takes_effect_with_a_reload(
    cut_off: FollowingNode, strict: ConsulAgent, secret: Path, fleet: str
) -> None:
    """What was heard with the old one, which lacked the rights, is in the log then; the old one may go."""
    fire(strict, fleet, ["1", "2"])
    cut_off.await_tally("1", "2")
    secret.write_text(str(strict.token))

    cut_off.agentd.reload()

    wait_until(lambda: sorted(log_of(strict, fleet)) == ["1", "2"], "what was heard in the log")
    fire(strict, fleet, ["3"])
    wait_until(lambda: log_of(strict, fleet)[2:] == ["3"], "the next one in the log")
    cut_off.await_tally("1", "2", *log_of(strict, fleet))
    wait_until(lambda: not told(cut_off)["troubles"], "the troubles to be over", pause=0.1)


# ---------------------------------------------------------------- full disks


def test_a_node_whose_disk_is_full_takes_nothing_until_there_is_room(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """It says so, and acknowledges nothing that it does not have; then all comes in order, once."""
    node = new_node("n1", consul)
    with small_disk(node.directory / "state", "2m"):
        node.start()
        node.agentd.await_listening()
        publish(consul, fleet, fleet, "1")
        node.await_tally("1")
        wait_until(lambda: acknowledged(consul, fleet) == numbers(consul, fleet)[-1], "the acknowledgement")
        filler = node.directory / "state" / "filler"
        fill_disk(filler)
        publish(consul, fleet, fleet, *(f"{number}-{'x' * 20_000}" for number in range(2, 7)))
        consul.fire(fleet, b"7")
        wait_until(lambda: "full" in node.agentd.get("/readyz")[1], "the word")
        wait_until(lambda: "full" in " ".join(told(node)["troubles"]), "the same of the fleet")
        assert len(node.tally()) < 7
        wait_until(
            lambda: acknowledged(consul, fleet) == numbers(consul, fleet)[len(node.tally()) - 1],
            "what is in force, and no more, to be acknowledged",
        )

        filler.unlink()

        wait_until(lambda: len(node.tally()) == 7, "all of them")
        assert [one[:1] for one in node.tally()] == list("1234567")
        node.await_outcomes("tally", "applied", 7)
        wait_until(lambda: acknowledged(consul, fleet) == numbers(consul, fleet)[-1], "the acknowledgement")
        wait_until(lambda: node.agentd.get("/readyz")[0] == 200, "it to be ready")
        wait_until(lambda: not told(node)["troubles"], "the troubles to be over", pause=0.1)
        node.stop()


def numbers(consul: ConsulAgent, fleet: str) -> list[int]:
    """The numbers of the messages in the log."""
    with open_log(consul, fleet) as log:
        return list(log.numbers(fleet))


def acknowledged(consul: ConsulAgent, fleet: str) -> int | None:
    """The number that the node acknowledges as in force."""
    document = json.loads(consul.kv_get(f"agentd/{fleet}/nodes/n1") or b'{"names": {}}')
    found = document["names"].get(fleet, {}).get("live")
    return None if found is None else int(found)


def test_a_copy_of_the_log_that_finds_no_room_holds_up_nothing(
    new_consul: NewConsul, fleet: str, new_node: NewNode
) -> None:
    """It is told; once there is room the node holds all again, and writes back what Consul loses."""
    consul = new_consul()
    where = {"address": f"{consul.address}:{consul.ports['http']}", "wait": "5s"}
    node = new_node("n1", consul, settings={"consul": where})
    state, small = node.directory / "state", node.directory / "small"
    with small_disk(small, "1m"):
        state.mkdir()
        (state / "fleet.db").symlink_to(small / "fleet.db")
        node.start()
        node.agentd.await_listening()
        publish(consul, fleet, fleet, "1")
        node.await_tally("1")
        fill_disk(small / "filler")
        large = [f"{number}-{'x' * 30_000}" for number in range(2, 12)]
        publish(consul, fleet, fleet, *large)
        node.await_tally("1", *large)
        wait_until(lambda: "copy of the log" in " ".join(told(node)["troubles"]), "the word")
        consul.fire(fleet, b"12")
        node.await_tally("1", *large, "12")
        (small / "filler").unlink()
        wait_until(lambda: not told(node)["troubles"], "the troubles to be over", pause=0.1)
        before = log_of(consul, fleet)

        consul.kv_delete(f"agentd/{fleet}/", recurse=True)

        wait_until(lambda: log_of(consul, fleet) == before, "the log to be written back")
        node.await_tally("1", *large, "12")
        node.stop()


# ---------------------------------------------------------------- a full journal


def test_a_journal_that_is_full_of_what_waits_for_the_log_loses_nothing_silently(
    cut_off: FollowingNode, strict: ConsulAgent, secret: Path, fleet: str
) -> None:
    """The oldest goes, no more than must, and is told as expired; the log has all the rest, once."""
    node = cut_off
    first = strict.fire(fleet, b"0")
    node.await_tally("0")
    node.stop()
    heard = hear(node, FLOOD)
    node.config["journal"] = {"max_size": "8M"}
    node.configure()
    secret.write_text(str(strict.token))

    node.start()

    wait_until(lambda: all(row["outcome"] for row in node.history(RELAY)), "none to wait any more", pause=0.2)
    kept, gone = [one["id"] for one in messages_of(strict, fleet)], expired(node)
    assert len(kept) == len(set(kept))
    assert {*kept, *gone} == {*heard, first}
    assert len(kept) > FLOOD // 3
    assert gone


def hear(node: FollowingNode, count: int) -> list[str]:
    """Have so many events wait for the log on a stopped node, like the one that does; returns their IDs."""
    identities = [str(uuid.uuid4()) for _ in range(count)]
    with closing(sqlite3.connect(node.directory / "state" / "journal.db")) as db, db:
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM changes WHERE handler = ?", (RELAY,)).fetchone())
        del row["seq"]
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        for number, identity in enumerate(identities, 1):
            event = json.loads(row["body"])
            event["ID"], event["LTime"] = identity, event["LTime"] + number
            event["Payload"] = base64.b64encode(f"{number}-{'x' * 300}".encode()).decode()
            values = row | {"id": event["ID"], "body": json.dumps(event)}
            db.execute(f"INSERT INTO changes ({columns}) VALUES ({marks})", values)  # noqa: S608 (its own columns)
    return identities


def expired(node: FollowingNode) -> list[str]:
    """The IDs of the events that the node says it could not keep for the log."""
    lines = [json.loads(line) for line in node.agentd.log_lines() if '"handler.expired"' in line]
    return [line["change"] for line in lines if line["handler"] == RELAY]

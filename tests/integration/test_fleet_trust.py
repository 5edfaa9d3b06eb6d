"""Signed and sealed messages on a real Consul: what daemons believe, and where a secret is to be found."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.acknowledgement import Name, Tried
from agentd.fleet.acknowledgement_codec import parse
from agentd.fleet.envelope import Draft
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.trust.key_files import write_key
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.keys import FleetKey, new_fleet_key, new_secret_key
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

OPS = new_secret_key()
STRANGER = Signer(new_secret_key())
HUGE = 8_000_000_000_000_000

NewNode = Callable[..., FollowingNode]


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def fleet_key(directory: Path) -> FleetKey:
    """The key of the fleet, in a file."""
    key = new_fleet_key()
    write_key(directory / "keys" / "fleet.key", key)
    return key


@pytest.fixture
def signer(fleet_key: FleetKey) -> Signer:
    """The publisher that every node with `trust:` knows."""
    return Signer(OPS, fleet_key)


@pytest.fixture
def new_node(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes: `new_node("n1", trust={"require": "signed"})`; each is stopped at the end."""
    title = fleet
    with ExitStack() as stack:

        def make(
            name: str,
            trust: dict[str, Any] | None = None,
            fleet: dict[str, Any] | None = None,
            **options: Any,  # noqa: ANN401 (FollowingNode's own)
        ) -> FollowingNode:
            section = {
                "publishers": {"ops": {"key": OPS.public.text, "may": ["fleet-*"]}},
                "fleet_keys": [str(directory / "keys" / "fleet.key")],
            }
            settings = {} if trust is None else {"trust": section | trust}
            node = FollowingNode(
                directory / name, name, fleet=title, consul=consul, event=title, settings=settings, **options
            )
            node.config["fleet"] |= fleet or {}
            node.configure()
            stack.callback(node.stop)
            return node.start()

        yield make


def named(consul: ConsulAgent, fleet: str, node: FollowingNode) -> Name:
    """What a node acknowledges of the fleet's name."""
    found = consul.kv_get(Keys(fleet).node(node.name))
    return parse(found).names.get(fleet, Name()) if found else Name()


def refusals(node: FollowingNode, fleet: str) -> dict[str, float]:
    """By reason, how many messages and events a node did not believe."""
    lines = node.agentd.get("/metrics")[1].splitlines()
    start = f'agentd_fleet_refused_total{{event="{fleet}",reason="'
    found = (line.removeprefix(start).partition('"}') for line in lines if line.startswith(start))
    return {reason: float(value) for reason, _, value in found}


def waits(node: FollowingNode, fleet: str) -> str:
    """Why the node does not go on in the log."""
    return str(json.loads(node.agentd.get("/status")[1])["fleet"]["names"][fleet]["waits"])


def test_nodes_with_different_trust_follow_one_log(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer
) -> None:
    """Each takes what it believes. What is refused is in its history, metrics and acknowledgement."""
    strict, lax = new_node("strict", {"require": "signed"}), new_node("lax")
    publish(consul, fleet, fleet, "1", signer=signer)
    publish(consul, fleet, fleet, "2")
    publish(consul, fleet, fleet, "3", signer=STRANGER)
    lax.await_tally("1", "2", "3")
    strict.await_tally("1")

    wait_until(lambda: refusals(strict, fleet) == {"unsigned": 1, "unknown": 1}, "the refusals")
    tried = wait_until(lambda: named(consul, fleet, strict).tried, "what was tried")
    assert isinstance(tried, Tried)
    rows = [row for row in strict.history("tally") if row["outcome"] == "refused"]
    assert ["nobody signed it" in rows[0]["reason"], "no publisher has" in rows[1]["reason"]] == [True, True]
    assert all(row["id"].startswith("refused:") and row["body"] is None for row in rows)
    wait_until(
        lambda: (one := named(consul, fleet, strict).tried) and one.outcome == "refused",
        "the acknowledgement",
    )

    publish(consul, fleet, fleet, "4", signer=signer)
    strict.await_tally("1", "4")
    lax.await_tally("1", "2", "3", "4")
    wait_until(
        lambda: (one := named(consul, fleet, strict)).live and one.live == named(consul, fleet, lax).live,
        "the same number in force",
    )
    assert waits(strict, fleet) == waits(lax, fleet) == ""
    with open_log(consul, fleet) as log:
        head = log.head(fleet)
    assert head is not None
    assert (head.count, head.mended) == (4, 0)


def forge(consul: ConsulAgent, fleet: str, num: int, **fields: Any) -> None:  # noqa: ANN401 (of a draft)
    """What somebody may do who can write the log, but signs nothing."""
    keys = Keys(fleet)
    made = Draft(b"evil", issued=time.time(), publisher="ops@admin1", **fields).numbered(fleet, fleet, num, 1)
    consul.kv_put(keys.message(fleet, num), made.raw)
    head = Head("all", newest=num, oldest=num, count=1, recent=(num,), inline=made.raw)
    consul.kv_put(keys.head(fleet), head.render())


def test_a_forged_huge_number_hides_nothing(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer
) -> None:
    """Neither from a node that follows, nor from one that joins, once the log is as it was."""
    node = new_node("n1", {"require": "signed"})
    publish(consul, fleet, fleet, "1", signer=signer)
    node.await_tally("1")
    keys = Keys(fleet)
    before = consul.kv_get(keys.head(fleet))
    forge(consul, fleet, HUGE)
    wait_until(lambda: refusals(node, fleet) == {"unsigned": 1}, "the refusal")
    joiner = new_node("n2", {"require": "signed"})
    wait_until(lambda: refusals(joiner, fleet) == {"unsigned": 1}, "the refusal of the joiner")

    consul.kv_delete(keys.message(fleet, HUGE))
    consul.kv_put(keys.head(fleet), before or b"")
    publish(consul, fleet, fleet, "2", signer=signer)

    node.await_tally("1", "2")
    joiner.await_tally("1", "2")


def test_an_altered_message_is_no_message(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer
) -> None:
    """Neither moved to another number, nor from another fleet, nor with a bit flipped."""
    publish(consul, fleet, fleet, "1", "2", signer=signer)
    publish(
        consul, f"{fleet}-b", fleet, *"34567", signer=signer
    )  # the last one's number is above all of ours
    keys = Keys(fleet)
    with open_log(consul, fleet) as log, open_log(consul, f"{fleet}-b") as other:
        first, second = log.numbers(fleet)
        foreign = other.numbers(fleet)[-1]
    raws = {num: consul.kv_get(keys.message(fleet, num)) or b"" for num in (first, second)}
    alien = consul.kv_get(Keys(f"{fleet}-b").message(fleet, foreign)) or b""
    swapped = raws[first].replace(b'"num":%d,"prev":0' % first, b'"num":%d,"prev":%d' % (second, first))
    moved = alien.replace(f'"{fleet}-b"'.encode(), f'"{fleet}"'.encode())
    consul.kv_put(keys.message(fleet, second), swapped)
    consul.kv_put(keys.message(fleet, second + 1), raws[second][:-1] + b"!")
    consul.kv_put(keys.message(fleet, foreign), moved)
    numbers = (first, second, second + 1, foreign)
    head = Head("all", newest=foreign, oldest=first, count=4, recent=numbers)
    consul.kv_put(keys.head(fleet), head.render())

    node = new_node("n1", {})
    node.await_tally("1")
    counts = {"replayed": 1, "signature": 1, "malformed": 1}
    wait_until(lambda: refusals(node, fleet) == counts, "the refusals")
    assert node.tally() == ["1"]


def test_an_old_log_is_not_taken_for_the_newest(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer
) -> None:
    """By a node that lost everything but its copy of the log, which says how far the log was."""
    node = new_node("n1", {"require": "signed"}, fleet={"relay": False})
    publish(consul, fleet, fleet, "1", signer=signer)
    node.await_tally("1")
    keys = Keys(fleet)
    old = consul.kv_get(keys.head(fleet)) or b""
    publish(consul, fleet, fleet, "2", signer=signer)
    node.await_tally("1", "2")
    node.stop()
    with open_log(consul, fleet) as log:
        newest = log.numbers(fleet)[-1]
    consul.kv_delete(keys.message(fleet, newest))
    consul.kv_put(keys.head(fleet), old)
    state, kept = node.directory / "state", node.directory / "kept"
    kept.mkdir()
    for path in state.glob("fleet.db*"):
        path.rename(kept / path.name)
    for path in (state, node.directory / "tree"):
        shutil.rmtree(path)
    kept.rename(state)

    node.start()
    wait_until(lambda: f"this node has seen message {newest}" in waits(node, fleet), "the reason to wait")
    assert node.tally() == []

    publish(consul, fleet, fleet, "3", signer=signer)
    node.await_tally("1", "3")


def test_what_consul_lost_comes_back_signed(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer
) -> None:
    """By a node that has no signing key; a node that joins then believes it."""
    node = new_node("n1", {"require": "signed"})
    publish(consul, fleet, fleet, "1", "2", signer=signer)
    node.await_tally("1", "2")
    consul.kv_delete(Keys(fleet).root, recurse=True)

    joiner = new_node("n2", {"require": "signed"})
    joiner.await_tally("1", "2")
    assert refusals(joiner, fleet) == {}


@pytest.mark.usefixtures("fleet_key")
def test_an_event_with_a_payload_is_refused_where_signatures_are_required(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """By every node that hears it; an empty one reaches no handler that follows the log."""
    node = new_node("n1", {"require": "signed"})
    node.agentd.await_listening()
    consul.fire(fleet, b"evil")
    wait_until(lambda: refusals(node, fleet) == {"unsigned": 1}, "the refusal")
    consul.fire(fleet, b"")
    consul.fire(fleet, b"evil again")
    wait_until(lambda: refusals(node, fleet) == {"unsigned": 2}, "the second refusal")
    assert [row["outcome"] for row in node.history("tally")] == ["refused", "refused"]
    assert node.tally() == []
    with open_log(consul, fleet) as log:
        assert log.head(fleet) is None


def test_publishers_that_write_at_once_leave_valid_messages_only(
    consul: ConsulAgent, fleet: str, signer: Signer
) -> None:
    """Each is signed for the number that it got in the end, and there is one of each."""
    writers, rounds = 5, 10

    def write(writer: int) -> None:
        publish(
            consul, fleet, fleet, *(f"{writer}-{one}" for one in range(rounds)), signer=signer, sealed=True
        )

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))

    assert signer.fleet_key is not None
    keyring = Keyring([Publisher("ops", (OPS.public,), (fleet,))], [signer.fleet_key])
    with open_log(consul, fleet) as log:
        found = [one for page in log.after(fleet, 0, log.head(fleet)) for one in page.messages]
    payloads = [keyring.body(keyring.verify(one.signed)) for one in found if one.signed]
    assert len(payloads) == writers * rounds
    assert set(payloads) == {b"%d-%d" % (writer, one) for writer in range(writers) for one in range(rounds)}
    assert [one.prev for one in found] == [0, *(one.num for one in found[:-1])]


# ---------------------------------------------------------------- sealed


def tickets(fleet: str) -> dict[str, Any]:
    """A handler whose payloads are secret."""
    return {"tickets": {"use": "tls_ticket_keys", "on": [{"event": fleet, "keep": "latest"}]}}


def seal(consul: ConsulAgent, fleet: str, key: bytes, signer: Signer) -> None:
    """Publish a ticket key, sealed."""
    text = base64.b64encode(key).decode()
    publish(consul, fleet, fleet, text, keep="latest", signer=signer, sealed=True)


def holding(directory: Path, key: bytes) -> list[Path]:
    """The files that have the key, in any form."""
    text = base64.b64encode(key)
    forms = [key, text, base64.b64encode(text), key.hex().encode(), key[:32], base64.b64encode(key[:30])]
    forms += [base64.urlsafe_b64encode(one).rstrip(b"=") for one in (key, text)]
    found = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in found if any(form in path.read_bytes() for form in forms)]


def has_key(node: FollowingNode, key: bytes) -> bool:
    """Whether the key is in a file that nginx would read."""
    current = node.directory / "tree" / "current" / "tickets"
    return any(path.read_bytes() == key for path in current.glob("*.key"))


def test_a_sealed_key_is_nowhere_but_in_its_file(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer, directory: Path
) -> None:
    """Not in Consul, the journal, the copy of the log, or a log; old ones leave all of these."""
    node = new_node("n1", {"seal": "fleet-*"}, handlers=tickets(fleet))
    first, second = secrets.token_bytes(80), secrets.token_bytes(80)
    seal(consul, fleet, first, signer)
    wait_until(lambda: has_key(node, first), "the first key")
    seal(consul, fleet, second, signer)
    wait_until(lambda: has_key(node, second), "the second key")

    node.stop()
    pairs = consul.get(f"/v1/kv/{Keys(fleet).root}?recurse")
    dump = directory / "kv.dump"
    dump.write_bytes(b"\n".join(base64.b64decode(pair["Value"] or "") for pair in pairs))
    for key in (first, second):
        files = holding(directory, key)
        assert files
        assert {path.parent.name for path in files} == {"tickets"}
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert sum("/messages/" in pair["Key"] for pair in pairs) == 1


def test_a_node_without_the_key_waits_until_it_has_it(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer, directory: Path
) -> None:
    """It says for which; a reload is enough."""
    wrong = directory / "keys" / "wrong.key"
    write_key(wrong, new_fleet_key())
    node = new_node("n1", {"seal": "fleet-*", "fleet_keys": [str(wrong)]}, handlers=tickets(fleet))
    node.agentd.await_listening()
    key = secrets.token_bytes(80)
    seal(consul, fleet, key, signer)
    assert signer.fleet_key is not None
    kid = signer.fleet_key.kid
    wait_until(lambda: kid in waits(node, fleet), "the reason to wait")
    assert kid in node.agentd.get("/readyz")[1]
    wait_until(lambda: kid in named(consul, fleet, node).waits, "the acknowledgement")
    shown = node.agentd.command("fleet", "--json")
    (difference,) = [one for one in json.loads(shown.stdout)["differences"] if one["node"] == "n1"]
    assert (shown.returncode, difference["trouble"]) == (1, "behind")
    assert kid in difference["text"]
    assert not has_key(node, key)

    node.config["trust"]["fleet_keys"] = [str(wrong), str(directory / "keys" / "fleet.key")]
    node.configure()
    node.agentd.reload()
    wait_until(lambda: has_key(node, key), "the key")
    assert waits(node, fleet) == ""
    wait_until(lambda: named(consul, fleet, node).waits == "", "the acknowledgement")


def test_a_node_that_was_away_over_a_rotation_of_the_fleet_key_takes_the_newest(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer, directory: Path
) -> None:
    """It comes back with the new key alone; its copy of the log is sealed with the old one."""
    node = new_node("n1", {"seal": "fleet-*"}, handlers=tickets(fleet))
    first, second = secrets.token_bytes(80), secrets.token_bytes(80)
    seal(consul, fleet, first, signer)
    wait_until(lambda: has_key(node, first), "the first key")
    node.stop()
    new = new_fleet_key()
    write_key(directory / "keys" / "fleet-2.key", new)
    seal(consul, fleet, second, Signer(OPS, new))

    node.config["trust"]["fleet_keys"] = [str(directory / "keys" / "fleet-2.key")]
    node.configure()
    node.start()
    wait_until(lambda: has_key(node, second), "the second key")
    assert has_key(node, first)


def test_a_reload_with_a_key_that_cannot_be_used_changes_nothing(
    consul: ConsulAgent, fleet: str, new_node: NewNode, signer: Signer, directory: Path
) -> None:
    """It is told with its line, and the node goes on with what it has."""
    node = new_node("n1", {"require": "signed"})
    node.agentd.await_listening()
    (directory / "keys" / "fleet.key").chmod(0o640)
    node.agentd.reload()
    wait_until(lambda: "has the mode 0640" in node.agentd.get("/readyz")[1], "the refusal")

    publish(consul, fleet, fleet, "1", signer=signer)
    node.await_tally("1")
    assert "fleet_keys" in node.agentd.get("/readyz")[1]

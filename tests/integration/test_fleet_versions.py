"""Two releases in one fleet, of which the newer one writes another format, and files of a newer release."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from agentd.trust.keyring import Signer
from agentd.trust.keys import new_secret_key
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet: `new_node("n1", relay=False)`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, *, relay: bool) -> FollowingNode:
            settings: dict[str, Any] = {
                "fleet": {"name": fleet, "node": name, "service": False, "relay": relay}
            }
            node = FollowingNode(
                directory / name, name, fleet=fleet, consul=consul, event=fleet, settings=settings
            )
            stack.callback(node.stop)
            return node

        yield make


def waits(node: FollowingNode, fleet: str) -> str:
    """Why the node does not go on in the log."""
    return str(json.loads(node.agentd.get("/status")[1])["fleet"]["names"][fleet]["waits"])


def acknowledges(consul: ConsulAgent, fleet: str, node: FollowingNode, form: int) -> bool:
    """Whether the node acknowledges in that format."""
    found = consul.kv_get(f"agentd/{fleet}/nodes/{node.name}")
    return found is not None and json.loads(found)["format"] == form


def test_an_upgrade_of_one_node_after_the_other_loses_nothing(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """What the newer one writes, and all after it, waits on the older one until that is upgraded."""
    older, newer = new_node("n1", relay=False), new_node("n2", relay=True)
    newer.install(newer=True)
    for node in (older, newer):
        node.start()
        node.agentd.await_listening()
    publish(consul, fleet, fleet, "1")
    older.await_tally("1")
    wait_until(lambda: acknowledges(consul, fleet, older, 2), "the older acknowledgement")
    wait_until(lambda: acknowledges(consul, fleet, newer, 3), "the newer acknowledgement")

    refused = newer.agentd.command("publish", fleet, "never")
    consul.fire(fleet, b"2")
    newer.await_tally("1", "2")
    publish(consul, fleet, fleet, "3")
    newer.await_tally("1", "2", "3")
    wait_until(lambda: "upgrade agentd" in waits(older, fleet), "the word")

    assert refused.returncode == 1
    assert "n1 would not understand a message of format 3" in refused.stderr
    assert older.tally() == ["1"]
    assert "upgrade agentd" in older.agentd.get("/readyz")[1]
    older.install(newer=True)
    older.start()
    older.await_tally("1", "2", "3")
    older.await_outcomes("tally", "applied", 3)
    wait_until(lambda: acknowledges(consul, fleet, older, 3), "the newer acknowledgement")
    assert newer.agentd.command("publish", fleet, "4").returncode == 0
    older.await_tally("1", "2", "3", "4")


def test_a_downgrade_waits_for_what_it_does_not_understand(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """It repeats nothing of what the newer release did, and says what it waits for."""
    node, newer = new_node("n1", relay=False), new_node("n2", relay=True)
    for one in (node, newer):
        one.install(newer=True)
        one.start()
        one.agentd.await_listening()
    consul.fire(fleet, b"1")
    node.await_tally("1")

    node.install(newer=False)
    node.start()
    consul.fire(fleet, b"2")
    newer.await_tally("1", "2")

    wait_until(lambda: "upgrade agentd" in waits(node, fleet), "the word")
    assert node.tally() == ["1"]
    wait_until(lambda: acknowledges(consul, fleet, node, 2), "the older acknowledgement")
    refused = newer.agentd.command("publish", fleet, "never").stderr
    assert "n1 would not understand a message of format 3" in refused
    node.install(newer=True)
    node.start()
    node.await_tally("1", "2")


def test_a_release_without_signatures_waits_for_what_is_signed(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """It takes a signed message for no junk, and nothing that comes after it."""
    older, current = new_node("n1", relay=False), new_node("n2", relay=True)
    older.install(older=True)
    for one in (older, current):
        one.start()
    publish(consul, fleet, fleet, "1")
    publish(consul, fleet, fleet, "2", signer=Signer(new_secret_key()))
    publish(consul, fleet, fleet, "3")

    current.await_tally("1", "2", "3")  # without `trust:` it believes whatever is well-formed
    wait_until(lambda: "upgrade agentd" in waits(older, fleet), "the word")
    assert older.tally() == ["1"]
    wait_until(lambda: acknowledges(consul, fleet, older, 1), "the older acknowledgement")
    wait_until(lambda: acknowledges(consul, fleet, current, 2), "the current acknowledgement")

    older.install()
    older.start()
    older.await_tally("1", "2", "3")


def set_format(path: Path, form: int) -> None:
    """Make it a file of another format."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {form}")


def read_format(path: Path) -> int:
    """The format of a file."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_journal_of_a_newer_release_is_refused_and_left_alone(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """So is the copy of the log beside it: with the newer release again, all is as it was."""
    node = new_node("n1", relay=True).start()
    publish(consul, fleet, fleet, "1")
    node.await_tally("1")
    node.stop()
    state = node.directory / "state"
    known = read_format(state / "journal.db")
    for name in ("journal.db", "fleet.db"):
        set_format(state / name, 99)

    node.agentd.process.spawn()

    assert node.agentd.process.wait() == 1
    assert "format 99" in node.agentd.log_lines()[-1]
    assert [read_format(state / name) for name in ("journal.db", "fleet.db")] == [99, 99]
    assert not [*state.glob("*damaged*")]
    set_format(state / "journal.db", known)
    set_format(state / "fleet.db", 1)
    node.start()
    publish(consul, fleet, fleet, "2")
    node.await_tally("1", "2")


def test_a_copy_of_the_log_of_a_newer_release_is_kept_aside(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """It is told, the log is followed on, and nothing is applied twice."""
    node = new_node("n1", relay=True).start()
    publish(consul, fleet, fleet, "1")
    node.await_tally("1")
    node.stop()
    state = node.directory / "state"
    set_format(state / "fleet.db", 99)

    node.start()
    publish(consul, fleet, fleet, "2")

    node.await_tally("1", "2")
    (aside,) = state.glob("fleet.db.damaged-*")
    assert read_format(aside) == 99
    assert any("has format 99" in line for line in node.agentd.log_lines())

"""Freezes and pauses in a fleet of real daemons on a real Consul: what waits, and what outlives what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from agentd.fleet.envelope import Draft
from agentd.fleet.followed_name import MOST_WAITING
from agentd.fleet.freeze import NAME, render_freeze
from agentd.fleet.keys import Keys
from agentd.trust.key_files import write_key
from agentd.trust.keyring import Signer
from agentd.trust.keys import new_secret_key
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

TALLY = "tests.integration.tally:Tally"
OPS = new_secret_key()
MANY = 1500

NewNode = Callable[..., FollowingNode]


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes: `new_node("n1")`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, at: ConsulAgent = consul, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            node = FollowingNode(directory / name, name, fleet=fleet, consul=at, event=fleet, **options)
            stack.callback(node.stop)
            return node

        yield make


@pytest.fixture
def command(consul: ConsulAgent, fleet: str) -> Callable[..., int]:
    """Run a command from any host: without a configuration file."""
    return lambda name, *words: main([name, *words, "--fleet", fleet, "--http-addr", consul.url])


def frozen(node: FollowingNode) -> Any:  # noqa: ANN401 (JSON)
    """The freeze that the daemon keeps to."""
    return json.loads(node.agentd.get("/status")[1])["fleet"]["frozen"]


def trouble(node: FollowingNode) -> str:
    """What is wrong with the fleet, as the daemon says."""
    return "\n".join(json.loads(node.agentd.get("/status")[1])["fleet"]["troubles"])


def flood(consul: ConsulAgent, fleet: str) -> None:
    """Publish more than a node takes at once: 1, 2, 3, ..."""
    with open_log(consul, fleet) as log:
        for first in range(1, MANY, 30):
            some = range(first, min(first + 30, MANY))
            log.append(fleet, [Draft(str(at).encode(), time.time(), "test") for at in some], keep="all")


def holds_back(node: FollowingNode) -> bool:
    """Whether it says that something waits for a thaw."""
    return "frozen by " in trouble(node)


def has(node: FollowingNode, many: int) -> bool:
    """Whether it has applied so many."""
    return len(node.tally()) == many


def test_a_frozen_fleet_holds_back_and_goes_on_in_order(
    consul: ConsulAgent,
    fleet: str,
    new_node: NewNode,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Messages and events wait; everybody is told by whom, and the thaw lets all go in one commit."""
    nodes = [new_node("n1").start(), new_node("n2").start()]
    for node in nodes:
        node.agentd.await_listening()
    publish(consul, fleet, fleet, "a")
    for node in nodes:
        node.await_tally("a")

    assert command("freeze", "--reason", "black friday", "--for", "2h", "--wait", "100s") == 0
    said = capsys.readouterr().out
    assert "2 of 2 nodes hold them back." in said
    assert "black friday\n" in nodes[0].agentd.command("check").stdout
    assert command("publish", fleet, "b") == 0
    assert "black friday: nodes hold this back until `agentd thaw`" in capsys.readouterr().err
    consul.fire(fleet, b"c")
    began = time.monotonic()
    assert command("publish", fleet, "d", "--wait", "--timeout", "10m") == 1
    told = capsys.readouterr()
    assert time.monotonic() - began < 60
    assert "n1 and 1 more: waits: frozen by " in told.err
    assert "in force on 0 of 2 nodes" in told.out
    for node in nodes:
        wait_until(partial(holds_back, node), "the node to say so")
        assert node.tally() == ["a"]
    command("fleet")
    assert ": black friday; end it: `agentd thaw`" in capsys.readouterr().out.splitlines()[1]

    before = [node.history("tally")[-1]["generation"] for node in nodes]
    assert command("thaw", "--wait", "100s") == 0
    assert "is thawed; it was frozen by " in capsys.readouterr().out
    for node, generation in zip(nodes, before, strict=True):
        wait_until(partial(has, node, 4), "all to be applied")
        assert {row["generation"] for row in node.history("tally")[1:]} == {generation + 1}
    assert nodes[0].tally() == nodes[1].tally()
    assert set(nodes[0].tally()) == {"a", "b", "c", "d"}
    assert frozen(nodes[0]) is None


def test_nothing_else_is_published_under_the_name_of_freezes(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It would replace the freeze in the log."""
    assert command("publish", NAME, "x", "--keep", "latest") == 2
    assert "use `agentd freeze`" in capsys.readouterr().err


def test_urgent_names_go_on(
    consul: ConsulAgent, fleet: str, new_node: NewNode, command: Callable[..., int]
) -> None:
    """The blacklist by default; with `fleet.urgent`, those that it has."""
    handlers = {
        "blacklist": {"use": "ip_blacklist", "on": [{"event": f"{fleet}-block", "keep": "all"}]},
        "tally": {"use": TALLY, "on": [{"event": fleet, "keep": "all"}]},
    }
    usual, other = new_node("n1", handlers=handlers), new_node("n2", handlers=handlers)
    other.config["fleet"]["urgent"] = [fleet]
    other.configure()
    usual.start()
    other.start()
    assert command("freeze", "--wait", "100s") == 0
    publish(consul, fleet, f"{fleet}-block", "add 192.0.2.7")
    publish(consul, fleet, fleet, "a")

    usual.await_outcomes("blacklist", "applied", 1)
    other.await_tally("a")
    wait_until(partial(holds_back, other), "the other to hold the blacklist back")
    assert (usual.tally(), other.history("blacklist")) == ([], [])


def test_a_freeze_outlives_kill_restart_and_consul(
    new_consul: Callable[..., ConsulAgent], fleet: str, new_node: NewNode
) -> None:
    """A node that starts without Consul is frozen; when that comes back empty, the freeze is written back."""
    consul = new_consul()
    node = new_node("n1", consul).start()
    where = ["--fleet", fleet, "--http-addr", consul.url]
    publish(consul, fleet, fleet, "a")
    node.await_tally("a")
    assert main(["freeze", "--reason", "night", "--wait", "100s", *where]) == 0
    publish(consul, fleet, fleet, "b")
    node.agentd.kill()
    node.start()
    wait_until(partial(holds_back, node), "it to hold back")
    node.stop()
    consul.stop()
    node.start()
    alone = frozen(node)
    consul.start()
    consul.kv_delete(f"agentd/{fleet}/", recurse=True)
    keys = Keys(fleet)
    wait_until(lambda: consul.kv_get(keys.head(NAME)) is not None, "the freeze to be written back")
    wait_until(lambda: consul.kv_get(keys.head(fleet)) is not None, "the messages to be written back")
    still = frozen(node), node.tally()

    assert alone["reason"] == "night"
    assert still == (alone, ["a"])
    assert main(["thaw", "--wait", "100s", *where]) == 0
    node.await_tally("a", "b")


def test_only_who_may_freezes_and_thaws(
    consul: ConsulAgent, fleet: str, new_node: NewNode, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unsigned freezes and thaws are refused and counted, and an old thaw that is put back ends nothing."""
    write_key(directory / "ops.key", OPS)
    trust = {"require": "signed", "publishers": {"ops": {"key": OPS.public.text, "may": ["*"]}}}
    node = new_node("n1", settings={"trust": trust}).start()
    host = directory / "admin.yaml"
    host.write_text(
        json.dumps(
            {
                "consul": node.config["consul"],
                "fleet": {"name": fleet},
                "trust": trust | {"signing_key": str(directory / "ops.key")},
                "handlers": {},
            }
        )
    )
    keys = Keys(fleet)
    where = ["--fleet", fleet, "--http-addr", consul.url]
    wait_until(lambda: consul.kv_get(keys.node("n1")), "the node to acknowledge")
    assert main(["freeze", "--wait", "3s", *where]) == 1
    assert "0 of 1 nodes" in capsys.readouterr().out
    wait_until(lambda: 'reason="unsigned"} 1.0' in node.agentd.get("/metrics")[1], "it to be counted")
    publish(consul, fleet, fleet, "a", signer=Signer(OPS))
    node.await_tally("a")

    assert main(["thaw", "--config", str(host), "--wait", "100s"]) == 0
    thawed = {key: consul.kv_get(key) for key in (keys.head(NAME),)}
    num = json.loads(thawed[keys.head(NAME)] or b"")["newest"]
    thawed[keys.message(NAME, num)] = consul.kv_get(keys.message(NAME, num))
    assert main(["freeze", "--config", str(host), "--wait", "100s"]) == 0
    assert "1 of 1 nodes" in capsys.readouterr().out
    with open_log(consul, fleet) as log:  # an intruder's, with a higher number
        publish(consul, fleet, NAME, render_freeze("", frozen=False).decode(), keep="latest", kind="freeze")
        assert log.head(NAME) is not None
    for key, value in thawed.items():
        consul.kv_put(key, value or b"")
    publish(consul, fleet, fleet, "b", signer=Signer(OPS))
    wait_until(lambda: "frozen by ops" in trouble(node), "it to hold back")

    assert node.tally() == ["a"]
    assert main(["thaw", "--config", str(host), "--wait", "100s"]) == 0
    node.await_tally("a", "b")


def test_a_freeze_in_the_middle_of_catching_up_stops_it(
    consul: ConsulAgent, fleet: str, new_node: NewNode, command: Callable[..., int]
) -> None:
    """A node that was away is behind by more than it takes at once; after the thaw it has all, in order."""
    node = new_node("n1")
    node.start()
    publish(consul, fleet, fleet, "0")
    node.await_tally("0")
    node.stop()
    flood(consul, fleet)
    node.start()
    wait_until(lambda: len(node.history("tally")) > 1, "it to catch up")
    assert command("freeze", "--wait", "100s") == 0
    node.agentd.kill()
    node.start()
    wait_until(lambda: frozen(node), "it to be frozen")
    assert command("thaw", "--wait", "100s") == 0

    node.await_tally(*map(str, range(MANY)))


def test_a_paused_node_is_named_to_the_fleet(
    consul: ConsulAgent,
    fleet: str,
    new_node: NewNode,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`agentd fleet` shows since when and why, --wait names it at once, and resuming applies what waited."""
    nodes = [new_node("n1").start(), new_node("n2").start()]
    publish(consul, fleet, fleet, "a")
    for node in nodes:
        node.await_tally("a")
    assert nodes[1].agentd.command("pause", "tally", "--reason", "db work", "--wait", "100s").returncode == 0

    def rows() -> list[tuple[str, str]]:
        capsys.readouterr()
        command("fleet", "--json", "--service", "nobody")
        found = json.loads(capsys.readouterr().out)["differences"]
        return [(one["node"], one["text"]) for one in found if one["trouble"] == "paused"]

    ((name, text),) = wait_until(rows, "the fleet to know")
    assert "to go on: `agentd resume tally`" in nodes[1].agentd.command("check").stdout
    assert command("publish", fleet, "b", "--wait", "--timeout", "10m") == 1
    told = capsys.readouterr()

    assert name == "n2"
    assert text.startswith("tally is paused since ")
    assert text.endswith(": db work")
    assert f"n2: waits: {text}" in told.err
    assert "in force on 1 of 2 nodes" in told.out
    nodes[0].await_tally("a", "b")
    assert nodes[1].tally() == ["a"]
    assert nodes[1].agentd.command("resume", "--wait", "100s").returncode == 0
    nodes[1].await_tally("a", "b")
    wait_until(lambda: not rows(), "the fleet to know that it goes on")


def test_a_paused_node_takes_no_more_than_fits_and_then_all_in_order(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """What is too much for its journal waits in the log."""
    node = new_node("n1").start()
    publish(consul, fleet, fleet, "0")
    node.await_tally("0")
    assert node.agentd.command("pause", "--wait", "100s").returncode == 0
    flood(consul, fleet)
    wait_until(lambda: len(node.history("tally")) == 1 + MOST_WAITING, "as many to wait as may")
    node.agentd.kill()
    node.start()
    waiting = {row["reason"][:12] for row in node.history("tally")[1:]}

    assert waiting == {"paused since"}
    assert node.tally() == ["0"]
    assert node.agentd.command("resume", "--wait", "100s").returncode == 0
    node.await_tally(*map(str, range(MANY)))

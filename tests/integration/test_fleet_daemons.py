"""`agentd fleet`, `fire --wait` and `leave` with three real daemons: down, behind, back, gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from agentd.fleet.past import latest
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

HANDLERS = {
    "blacklist": {"use": "ip_blacklist", "on": [{"event": "blocked", "keep": "all"}]},
}


class Fleet:
    """Three daemons on one Consul agent, and the commands on them."""

    def __init__(self, consul: ConsulAgent, nodes: list[FollowingNode], name: str) -> None:
        self.nodes = nodes
        self.consul = consul
        self._name = name

    def command(self, name: str, *words: str) -> int:
        """Run one from any host: without a configuration file."""
        return main([name, *words, "--fleet", self._name, "--http-addr", self.consul.url])

    def seen(self, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        """What `agentd fleet` shows a program."""
        capsys.readouterr()
        self.command("fleet", "--json", "--service", "nobody")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def agrees(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Wait until all three do."""
        wait_until(lambda: len(self.seen(capsys)["agreeing"]) == 3, "three nodes that agree")


@pytest.fixture
def fleet(consul: ConsulAgent, directory: Path) -> Iterator[Fleet]:
    """All three run."""
    name = f"daemons-{free_port()}"
    with ExitStack() as stack:
        nodes = []
        for number in (1, 2, 3):
            node = FollowingNode(
                directory / f"n{number}", f"{name}-{number}", fleet=name, consul=consul, handlers=HANDLERS
            )
            stack.callback(node.stop)
            nodes.append(node)
        for node in nodes:
            node.start()
            node.agentd.await_listening()
        made = Fleet(consul, nodes, name)
        yield made
        consul.kv_delete(f"agentd/{name}/", recurse=True)


def trouble(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What differs."""
    return [(one["trouble"], one["node"], one["text"]) for one in found["differences"]]


def test_fire_waits_for_all_and_the_table_shows_who_was_down(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is stopped while an event fires, and catches up when it is back."""
    fleet.agrees(capsys)
    assert fleet.command("fire", "blocked", "add 192.0.2.7", "--wait", "--timeout", "5m") == 0
    assert "in force on 3 of 3 nodes" in capsys.readouterr().out

    last = fleet.nodes[2]
    last.stop()
    assert (
        fleet.command("fire", "blocked", "add 192.0.2.8", "--wait", "--quorum", "60%", "--timeout", "5m") == 0
    )
    assert "in force on 2 of 3 nodes (2 are enough)" in capsys.readouterr().out
    assert trouble(fleet.seen(capsys)) == [
        ("behind", last.name, "agentd is stopped"),
        ("stopped", last.name, "agentd was stopped; nginx may still serve"),
    ]

    last.start()
    fleet.agrees(capsys)


def test_a_payload_that_is_wrong_is_refused_everywhere_and_told_at_once(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits out the timeout."""
    fleet.agrees(capsys)
    assert fleet.command("fire", "blocked", "add nonsense", "--wait", "--timeout", "10m") == 1
    assert "refused" in capsys.readouterr().out
    assert {one for one, _, _ in trouble(fleet.seen(capsys))} <= {"failed", "behind"}


def test_who_leaves_is_no_longer_waited_for(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """But not while it runs."""
    fleet.agrees(capsys)
    gone = fleet.nodes[0]
    assert main(["leave", "--config", str(gone.configuration)]) == 1
    assert fleet.command("fleet", "forget", gone.name) == 1
    gone.stop()
    assert main(["leave", "--config", str(gone.configuration)]) == 0
    capsys.readouterr()
    assert fleet.command("fire", "blocked", "add 192.0.2.7", "--wait", "--timeout", "5m") == 0
    assert "in force on 2 of 2 nodes" in capsys.readouterr().out


def test_who_took_a_message_for_some_nodes_is_compared_with_its_like_alone(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until a snapshot, by which all come to the same."""
    chosen = fleet.nodes[1].name

    def states() -> list[tuple[str, str]]:
        documents = fleet.seen(capsys)["documents"]
        found = [latest(one["handlers"]["blacklist"]["past"]) for one in documents.values()]
        return [one for one in found if one]

    def publish(*words: str) -> None:
        assert fleet.command("publish", "blocked", *words, "--wait", "--timeout", "5m") == 0

    publish("add 192.0.2.1", "--keep", "all")
    publish("add 192.0.2.2", "--node", f"^{chosen}$")
    publish("add 192.0.2.3")
    wait_until(lambda: len(set(states())) == 2, "the others to be elsewhere")
    assert len({place for place, _ in states()}) == 2

    publish("replace\nadd 192.0.2.4", "--snapshot")
    wait_until(lambda: len(set(states())) == 1, "all of them to be at the same")

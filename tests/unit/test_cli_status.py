"""`agentd status`: from the daemon, or from what is on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agentd.commands import status as command
from tests.unit.cli_node import CommandNode

QUERY = {
    "query": "event",
    "last_contact": 0.0,
    "deliveries": 3,
    "missed": 0,
    "error": None,
    "held": None,
}


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node that has not run yet."""
    return CommandNode(tmp_path, capsys)


def daemon_says(monkeypatch: pytest.MonkeyPatch, **differs: Any) -> None:  # noqa: ANN401 (any JSON)
    """Let the daemon answer with a snapshot in which all is well but for `differs`."""
    snapshot = {
        "pid": 42,
        "version": "0.1.0",
        "generation": 7,
        "reload_owed": [],
        "backlog": {},
        "not_ready": [],
        "stuck": [],
        "queries": [QUERY | {"last_contact": time.time() - 5}],
    }
    monkeypatch.setattr(command, "_ask", lambda _loaded: snapshot | differs)


def test_node_that_never_ran_is_not_well(node: CommandNode) -> None:
    """Status 1, what to do, and no journal made by asking."""
    code, said, _ = node.command("status")
    assert code == 1
    assert "not running (from the journal and the tree)" in said
    assert "systemctl start agentd" in said
    assert not node.state.exists()


def test_stopped_daemon_is_told_from_disk(node: CommandNode) -> None:
    """Generation and backlog come from tree and journal, and the source is named."""
    node.commit(b"x")
    node.receive()
    told = node.json("status")
    assert (told["running"], told["source"], told["generation"]) == (False, "journal and tree", 1)
    assert told["backlog"] == {"writer": 1}


def test_daemon_that_is_well_ends_with_0(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words: pid, generation, and contact by query."""
    daemon_says(monkeypatch)
    with node.daemon_runs():
        code, said, _ = node.command("status")
    assert code == 0
    assert "running (pid 42, version 0.1.0)" in said
    assert "5.0 s ago" in said


@pytest.mark.parametrize(
    "differs, said",
    [
        ({"not_ready": ["the first files of a are not committed"]}, "first files of a"),
        ({"stuck": ["handler a"]}, "handler a shows no sign of life"),
        ({"queries": [QUERY | {"last_contact": None, "error": "no leader"}]}, "query event: no leader"),
    ],
)
def test_what_is_not_well_ends_with_1(
    differs: dict[str, Any], said: str, node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ready, stuck, or without contact: each is told."""
    daemon_says(monkeypatch, **differs)
    with node.daemon_runs():
        code, told, _ = node.command("status")
    assert code == 1
    assert said in told


def test_daemon_that_does_not_answer_is_told_from_disk(node: CommandNode) -> None:
    """It runs, its endpoints are switched off: journal and tree speak, and it is not called well."""
    node.commit(b"x")
    with node.daemon_runs():
        told = node.json("status")
    assert (told["running"], told["source"], told["generation"]) == (True, "journal and tree", 1)
    assert told["trouble"] == ["the daemon runs, but does not answer on its status address"]


def test_owed_reload_is_shown(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nginx does not run yet is named by its generation."""
    daemon_says(monkeypatch, reload_owed=[6, 7], backlog={"writer": 2})
    with node.daemon_runs():
        _, said, _ = node.command("status")
    assert "owed for generation 6, 7" in said
    assert "writer: 2" in said

"""Daemon and commands on a node that another version of agentd wrote: refused, and nothing is touched."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentd.journal.plan import Plan
from agentd.journal.store import marked
from tests.unit.commands.node import CommandNode, Writer
from tests.unit.tree.trees import everything

ALL = [
    ("run",),
    ("history",),
    ("generations",),
    ("rollback",),
    ("rollback", "1"),
    ("replay", "00000001"),
    ("replay", "00000001", "--dry-run"),
]


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node with an event in its history and two generations."""
    node = CommandNode(tmp_path, capsys)
    node.receive()
    node.commit(b"1")
    node.commit(b"2")
    return node


def refused(node: CommandNode, *argv: str) -> str:
    """Run a command that must fail without a change to any file; what it complained of."""
    before = {path: file for path, file in everything(node.directory).items() if not path.endswith("-shm")}
    status, _, complaint = node.command(*argv)
    after = everything(node.directory)

    assert status == 1
    assert {path: after.get(path) for path in before} == before
    return complaint


@pytest.mark.parametrize("argv", [argv for argv in ALL if argv != ("generations",)], ids=" ".join)
def test_a_journal_of_another_version_is_refused(node: CommandNode, argv: tuple[str, ...]) -> None:
    """By all that open it; `generations` does not."""
    with closing(sqlite3.connect(node.state / "journal.db", isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 99")

    assert "journal.db has format 99, but this agentd only knows format" in refused(node, *argv)


@pytest.mark.parametrize(
    "argv", [argv for argv in ALL if argv not in (("history",), ("replay", "00000001"))], ids=" ".join
)
def test_a_tree_of_another_version_is_refused(node: CommandNode, argv: tuple[str, ...]) -> None:
    """By all that look at it."""
    manifest = (node.directory / "tree" / "current" / "manifest.json").resolve()
    body = json.loads(manifest.read_bytes())
    manifest.unlink()
    manifest.write_text(json.dumps(body | {"format": 2}))

    assert f"{manifest} has format 2, but this agentd only knows format 1" in refused(node, *argv)


@pytest.mark.parametrize("argv", [("run",), ("replay", "00000001", "--dry-run")], ids=" ".join)
def test_a_store_of_another_version_of_the_handler_is_refused(
    node: CommandNode, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    """By all that would hand it to the handler."""
    with node.opened() as inside:
        stage = inside.tree.stage("writer")
        inside.committer.commit(stage, Plan(handler="writer", store=marked({"n": 1}, 2)))
        before = inside.journal.stores()

    status, _, complaint = node.command(*argv)

    assert status != 0
    assert "the store of the handler 'writer' has format 2, but this agentd only knows format 1" in complaint
    with node.opened() as inside:
        assert inside.journal.stores() == before
    monkeypatch.setattr(Writer, "store_format", 2)
    assert node.command("replay", "00000001", "--dry-run")[0] == 0

"""`agentd blacklist` without a daemon: what it answers, and what it leaves in the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentd.apply.plan import Plan
from agentd.handler import Event
from tests.unit.cli_node import CommandNode


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node with one blacklist, and a journal."""
    made = CommandNode(tmp_path, capsys)
    configuration = json.loads(made.file.read_text())
    configuration["handlers"] = {"blocked": {"use": "ip_blacklist", "on": [{"event": "block"}]}}
    made.file.write_text(json.dumps(configuration))
    with made.opened() as opened:
        stage = opened.tree.stage("blocked")
        entry = b"192.0.2.0/24\tall\t-\t1000.0\tthe-event\tscans\n"
        stage.write("blacklist/entries.tsv", entry, 0o640)
        opened.committer.commit(stage, Plan(handler="blocked"))
    return made


def owed(node: CommandNode) -> list[Event]:
    """What waits for the blacklist."""
    with node.opened() as opened:
        return [
            entry.change for entry in opened.journal.pending("blocked") if isinstance(entry.change, Event)
        ]


@pytest.mark.parametrize(
    "words,payload",
    [
        (["add", "192.0.2.1"], b"add 192.0.2.1"),
        (["add", "192.0.2.1", "10m", "--reason", "a scan"], b"add 192.0.2.1 10m # a scan"),
        (["remove", "192.0.2.1"], b"remove 192.0.2.1"),
        (["load", "drop", "file:/lists/drop"], b"load drop file:/lists/drop"),
        (["clear", "drop"], b"clear drop"),
    ],
)
def test_lines_wait_in_the_journal(node: CommandNode, words: list[str], payload: bytes) -> None:
    """What is typed becomes the line that an event would have, marked as this node's own."""
    status, out, _ = node.command("blacklist", *words)

    [change] = owed(node)
    assert (status, change.payload, change.query, change.raw["Force"]) == (0, payload, "local", False)
    assert "waits in the journal" in out


def test_force_is_recorded(node: CommandNode) -> None:
    """`--force` stands in the journal, beside the payload and not in it."""
    node.command("blacklist", "load", "--force", "drop")

    [change] = owed(node)
    assert (change.payload, change.raw["Force"], change.name) == (b"load drop", True, "agentd blacklist load")


def test_why(node: CommandNode) -> None:
    """`why` tells the entry, its reason and its event."""
    status, out, _ = node.command("blacklist", "why", "192.0.2.7")

    assert status == 0
    assert "192.0.2.7/32 is blocked" in out
    assert all(word in out for word in ("192.0.2.0/24", "scans", "the-event"))


@pytest.mark.parametrize("address,said", [("8.8.8.8", "is not blocked"), ("10.0.0.1", "never blocked")])
def test_why_not(node: CommandNode, address: str, said: str) -> None:
    """An address that nothing names, or that nothing may block, is said to be let through."""
    assert said in node.command("blacklist", "why", address)[1]


def test_why_of_no_address(node: CommandNode) -> None:
    """What is no address is an error."""
    status, _, complaint = node.command("blacklist", "why", "nonsense")

    assert (status, complaint) == (1, "agentd: nonsense: not an address or CIDR\n")


def test_list(node: CommandNode) -> None:
    """`list` shows entries and lists, as a table or as JSON."""
    assert "192.0.2.0/24" in node.command("blacklist", "list")[1]
    assert node.json("blacklist", "list")["entries"][0]["change"] == "the-event"
    assert node.json("blacklist", "why", "192.0.2.7")["blocked"]


def test_no_blacklist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no blacklist is configured the command says so."""
    plain = CommandNode(tmp_path, capsys)
    plain.receive()

    status, _, complaint = plain.command("blacklist", "list")

    assert status == 1
    assert "no handler that is a blacklist is configured" in complaint

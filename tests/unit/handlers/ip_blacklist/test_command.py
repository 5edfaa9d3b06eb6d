"""`agentd blacklist` without a daemon: what it answers, and what it leaves in the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentd.handler import Event
from agentd.journal.plan import Plan
from agentd.testing import HandlerHarness, event
from handlers.ip_blacklist.handler import IPBlacklist
from tests.unit.commands.node import CommandNode


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node with one blacklist, which blocks one CIDR, and a journal."""
    made = CommandNode(tmp_path, capsys)
    configuration = json.loads(made.file.read_text())
    configuration["handlers"] = {
        "blocked": {
            "use": "ip_blacklist",
            "on": [{"event": "block"}],
            "options": {"never_block_node": False},
        }
    }
    made.file.write_text(json.dumps(configuration))
    blacklist = HandlerHarness(IPBlacklist, {"never_block_node": False}, now=1000.0)
    blacklist.initial()
    blacklist.handle(event("block", "192.0.2.0/24 # scans", id="the-event"))
    commit(made, blacklist.files)
    return made


def commit(node: CommandNode, files: Mapping[str, bytes]) -> None:
    """Have the tree hold what a blacklist staged elsewhere."""
    with node.opened() as opened:
        stage = opened.tree.stage("blocked")
        here = stage.reference("").encode()
        for path, data in files.items():
            stage.write(path, data.replace(b"agentd/current/", here), 0o640)
        opened.committer.commit(stage, Plan(handler="blocked"))


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
    assert all(word in out for word in ("192.0.2.0/24", "scans", "the-event", "yes"))


def test_why_says_what_the_tree_holds(node: CommandNode) -> None:
    """What nginx looks up decides, also where the options of now would exempt the address."""
    configuration = json.loads(node.file.read_text())
    configuration["handlers"]["blocked"]["options"]["never_block"] = ["192.0.2.7"]
    node.file.write_text(json.dumps(configuration))

    _, out, _ = node.command("blacklist", "why", "192.0.2.7")

    assert "192.0.2.7/32 is blocked by generation 1 (blacklist/ipv4.ranges), though it is never to be" in out


def test_why_finds_what_no_entry_names(node: CommandNode) -> None:
    """A file that nginx includes blocks, whatever became of the entries; one it does not include does not."""
    with node.opened() as opened:
        before = opened.tree.open_current().files
    assert "blacklist/ipv4.ranges" in before
    commit(
        node,
        {"blacklist/ipv4.ranges": b"198.51.100.0-198.51.100.9 1;\n", "blacklist/x.ipv4": b"203.0.113.1 1;\n"},
    )

    found = [node.json("blacklist", "why", one) for one in ("198.51.100.4", "192.0.2.7", "203.0.113.1")]

    assert [one["blocked"] for one in found] == [True, False, False]
    assert [one["in_force"] for one in found[1]["entries"]] == [False]


def test_why_asks_the_outputs(node: CommandNode, tmp_path: Path) -> None:
    """Each set says for itself whether it has the address, or why it cannot."""
    program = tmp_path / "ipset"
    program.write_text(
        '#!/bin/sh\n[ "$*" = "test agentd4 192.0.2.7" ] && exit 0\n'
        '[ "$2" = agentd4 ] && { echo "192.0.2.8 is NOT in set agentd4." >&2; exit 1; }\n'
        'echo "Kernel error received: Operation not permitted" >&2; exit 1\n'
    )
    program.chmod(0o755)
    configuration = json.loads(node.file.read_text())
    configuration["handlers"]["loader"] = {
        "use": "ip_blacklist_loader",
        "options": {"load": ["ipset"], "ipset": str(program)},
    }
    node.file.write_text(json.dumps(configuration))

    asked = ("192.0.2.7", "192.0.2.8/29", "2001:db8::1")
    found = [node.json("blacklist", "why", one)["outputs"][0] for one in asked]
    _, out, _ = node.command("blacklist", "why", "192.0.2.7")

    assert [(one["output"], one["address"], one["has"]) for one in found] == [
        ("ipset agentd4", "192.0.2.7", True),
        ("ipset agentd4", "192.0.2.8", False),
        ("ipset agentd6", "2001:db8::1", None),
    ]
    assert "Operation not permitted" in found[2]["trouble"]
    assert "ipset agentd4" in out


def test_why_of_an_exempt_address(node: CommandNode) -> None:
    """An exemption that the tree holds lets an address through that an entry names; its neighbours not."""
    commit(node, {"blacklist/never.ipv4": b"192.0.2.7-192.0.2.7 n;\n"})

    found = [node.json("blacklist", "why", one) for one in ("192.0.2.7", "192.0.2.6", "192.0.2.0/24")]

    assert [(one["blocked"], one["never_block"]) for one in found] == [
        (False, True), (True, False), (True, False),
    ]  # fmt: skip


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
    assert "no handler with `use: ip_blacklist` is configured" in complaint

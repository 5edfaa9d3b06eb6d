"""`agentd history`: what came, what became of it, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.commands.history import label
from agentd.handler import KeyState
from agentd.journal.entry import Outcome
from tests.unit.commands.node import CommandNode, event


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node on which nothing came yet."""
    return CommandNode(tmp_path, capsys)


def test_node_without_a_journal_says_that_agentd_has_not_run(node: CommandNode) -> None:
    """Reading makes no journal: the next step is to start the daemon."""
    status, _, error = node.command("history")
    assert (status, node.state.exists()) == (1, False)
    assert error == f"agentd: no journal in {node.state}: agentd has not run here yet; start it first\n"


def test_table_tells_what_came_and_why_it_was_refused(node: CommandNode) -> None:
    """One line an entry: name and short ID, outcome, attempts, duration, reason."""
    node.end(node.receive(), Outcome.REFUSED, "not base64")
    _, said, _ = node.command("history")
    title, line = said.splitlines()
    assert title.split() == [
        "TIME",
        "HANDLER",
        "CHANGE",
        "OUTCOME",
        "GENERATION",
        "ATTEMPTS",
        "TOOK",
        "REASON",
    ]
    assert line.split()[2:] == [
        "writer",
        "refresh",
        "00000001",
        "refused",
        "-",
        "1",
        "250",
        "ms",
        "not",
        "base64",
    ]


def test_newest_stands_first_and_limit_cuts_the_oldest(node: CommandNode) -> None:
    """`--limit 2` of three shows the last two."""
    for number in (1, 2, 3):
        node.receive(number=number)
    assert [row["id"][:8] for row in node.json("history", "--limit", "2")] == ["00000003", "00000002"]


def test_what_has_not_ended_says_what_it_waits_for(node: CommandNode) -> None:
    """An open entry waits for its turn."""
    node.receive()
    (row,) = node.json("history")
    assert (row["outcome"], row["state"], row["took"], row["attempts"]) == (None, "waiting", None, 0)


def test_handler_chooses(node: CommandNode) -> None:
    """`--handler` leaves out what came for others."""
    node.receive()
    with node.opened() as opened:
        opened.journal.queue("other", event(b"x", number=2))
    assert [row["handler"] for row in node.json("history", "--handler", "other")] == ["other"]


def test_id_shows_all_about_one_change(node: CommandNode) -> None:
    """The beginning of an ID is enough; the whole reason stands there, line for line."""
    reason = "first line " + "x" * 200 + "\nsecond line"
    node.end(node.receive(), Outcome.FAILED, reason)
    status, said, _ = node.command("history", "00000001")
    assert status == 0
    assert said.splitlines()[:2] == ["id          00000001-0000-4000-8000-000000000000", "handler     writer"]
    assert "x" * 200 in said
    assert "second line" in said


def test_long_reason_is_cut_in_the_table(node: CommandNode) -> None:
    """A table keeps to one line an entry."""
    node.end(node.receive(), Outcome.FAILED, "a\n" + "b" * 300)
    _, said, _ = node.command("history")
    assert said.splitlines()[1].endswith("a " + "b" * 95 + "...")


def test_deferred_change_tells_when_it_is_tried_again(node: CommandNode) -> None:
    """What failed for now shows its attempts, its reason and its next attempt."""
    entry = node.receive()
    with node.opened() as opened:
        opened.journal.defer([entry.seq], "not now", 2_000_000_000.0, failed=True)
    _, said, _ = node.command("history", entry.id)
    assert "next attempt  2033-05-1" in said
    assert "not now" in said


def test_state_is_named_by_its_query(node: CommandNode) -> None:
    """A key has no name of its own: its query says which."""
    with node.opened() as opened:
        opened.journal.receive([(KeyState("key:site/motd", {"Key": "site/motd"}, 7), ["writer"])])
    _, said, _ = node.command("history")
    assert " key:site/motd " in said


def test_payload_does_not_show(node: CommandNode) -> None:
    """Neither table, nor detail, nor JSON holds what was fired."""
    entry = node.receive(b"5ecret-payload")
    said = "".join(node.command("history", *more)[1] for more in ([], [entry.id], ["--json"]))
    assert "5ecret" not in said
    assert "NWVjcmV0" not in said  # the same in base64


def test_unknown_id_is_one_clear_line(node: CommandNode) -> None:
    """A wrong ID ends with 1 and says how to find the right one."""
    node.receive()
    status, _, error = node.command("history", "ffff")
    assert status == 1
    assert (
        error == "agentd: no change in the journal has an ID that begins with 'ffff'; see `agentd history`\n"
    )


def test_empty_journal_says_so(node: CommandNode) -> None:
    """Nothing came: no titles without rows."""
    with node.opened():
        pass
    assert node.command("history")[1] == "No change has arrived yet.\n"


def test_name_of_an_event_cannot_steer_the_terminal(node: CommandNode) -> None:
    """Whoever fires an event chooses its name; control characters show as escapes."""
    with node.opened() as opened:
        opened.journal.queue("writer", event(b"", name="a\033[2Jb"))
    _, said, _ = node.command("history")
    assert "\033" not in said
    assert "a\\x1b[2Jb" in said


def test_a_published_message_is_shown_with_its_number() -> None:
    """By which `agentd log` knows it: its ID begins with the name, so that the first letters say nothing."""
    shown = {"kind": "event", "name": "deploy", "query": "log:deploy"}
    assert label(shown | {"id": "deploy-1795724207904"}) == "deploy 1795724207904"
    assert label(shown | {"id": "deploy-1795724207904#2"}) == "deploy 1795724207904#2"
    assert label(shown | {"id": "02755044-a3b2-3446-5fac-2ce28f080d50"}) == "deploy 02755044"

"""`agentd history`: what came, what became of it, and why."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.commands import history_follow
from agentd.commands.history import short_id
from agentd.handler import Change, Event, KeyState, Notification, Timer
from agentd.journal.entry import Ending, Outcome
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
        "ID",
        "OUTCOME",
        "GENERATION",
        "ATTEMPTS",
        "TOOK",
        "REASON",
    ]
    assert line.split()[2:] == [
        "writer",
        "refresh",
        "00000001-0000-4000-8000-000000000000",
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


def test_long_reason_is_one_whole_line_in_a_pipe(node: CommandNode) -> None:
    """A table keeps to one line an entry, and nobody has to ask again for the end of it."""
    node.end(node.receive(), Outcome.FAILED, "a\n" + "b" * 300)
    _, said, _ = node.command("history")
    assert said.splitlines()[1].endswith("a " + "b" * 300)


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
    assert node.command("history")[1] == "There is no such change.\n"


def test_name_of_an_event_cannot_steer_the_terminal(node: CommandNode) -> None:
    """Whoever fires an event chooses its name; control characters show as escapes."""
    with node.opened() as opened:
        opened.journal.queue("writer", event(b"", name="a\033[2Jb"))
    _, said, _ = node.command("history")
    assert "\033" not in said
    assert "a\\x1b[2Jb" in said


def test_ids_on_a_terminal_are_as_short_as_commands_take_them() -> None:
    """Of an event the beginning; a message's begins with its name, so that the first letters say nothing."""
    shown = {"kind": "event", "name": "deploy"}
    assert short_id(shown | {"id": "deploy-1795724207904#2"}) == "deploy-1795724207904#2"
    assert short_id(shown | {"id": "02755044-a3b2-3446-5fac-2ce28f080d50#2"}) == "02755044#2"
    assert short_id({"kind": "timer", "name": None, "id": "timer-1795724207.25"}) == "timer-1795724207.25"


EVERY_KIND = (
    event(b"x", number=7),
    Event(
        "log:deploy",
        {
            "ID": "deploy-1795724207904", "Name": "deploy", "Payload": "eA==", "LTime": 3,
            "Message": {"num": 3, "issued": 1.0, "from": 1.0, "publisher": "me", "via": "publish"},
        },
    ),
    KeyState("key:site/motd", {"Key": "site/motd", "Value": "eA=="}, 7),
    Notification("notify", {"id": "commit-42", "generation": 42, "by": "a", "paths": [], "rollback": False}),
    Timer("timer", {"at": 1795724207.25}),
)  # fmt: skip


@pytest.mark.parametrize("change", EVERY_KIND, ids=lambda change: change.kind + change.query)
@pytest.mark.parametrize("columns", ["", "200"])
def test_the_id_that_a_table_shows_is_what_commands_take(
    change: Change, columns: str, node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kind of change, whether it is long or cut for a terminal, and also of its repetition."""
    monkeypatch.setenv("COLUMNS", columns)
    with node.opened() as opened:
        opened.journal.end([Ending(opened.journal.queue("writer", change), Outcome.APPLIED)])
    for repetition in ("", "#2"):
        shown = node.command("history", "--limit", "1")[1].splitlines()[1].split()[4]
        assert node.json("history", shown)[0]["id"].endswith(f"{change.id}{repetition}")
        assert len(node.json("history", shown)) == (1 if repetition else len(node.json("history")))
        node.command("replay", shown, "--wait", "0")
    assert [row["id"] for row in node.json("history")] == [f"{change.id}{end}" for end in ("#3", "#2", "")]


def test_failed_shows_what_failed_and_what_was_refused(node: CommandNode) -> None:
    """And neither what went well nor what was over."""
    for number, outcome in enumerate(Outcome, 1):
        node.end(node.receive(number=number), outcome)
    assert {row["outcome"] for row in node.json("history", "--failed")} == {"failed", "refused"}


def test_since_shows_what_arrived_or_ended_since_then(node: CommandNode) -> None:
    """All of it, however much; and nothing of before."""
    for number in range(1, 41):
        node.receive(number=number)
    with node.opened() as opened, opened.journal.database.transaction() as db:
        db.execute("UPDATE changes SET received = received - 7200 WHERE seq <= 5")
        db.execute("UPDATE changes SET finished = received + 7000, outcome = 'failed' WHERE seq = 2")
    rows = node.json("history", "--since", "1h")
    assert [int(row["id"][:8], 16) for row in rows] == [*range(40, 5, -1), 2]
    assert [row["outcome"] for row in node.json("history", "--since", "1h", "--failed")] == ["failed"]
    assert len(node.json("history", "--since", "1h", "--limit", "3")) == 3


def test_unknown_handler_is_an_error_that_names_the_nearest(node: CommandNode) -> None:
    """Not an empty table, which would say that all is well."""
    node.receive()
    for command in (["history"], ["replay", "00000001"]):
        status, _, error = node.command(*command, "--handler", "wirter")
        assert status == 1
        assert "there is no handler 'wirter': the configuration and the journal have prover, writer" in error
        assert "did you mean 'writer'?" in error


def test_handler_that_is_no_longer_configured_keeps_its_history(node: CommandNode) -> None:
    """It is known by what it had."""
    with node.opened() as opened:
        opened.journal.queue("former", event(b"x"))
    assert len(node.json("history", "--handler", "former")) == 1
    assert node.json("history", "--handler", "prover") == []


# ---------------------------------------------------------------- --follow


def following(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Instead of each wait, take the next step; then it is interrupted."""
    left = iter(steps)

    def step(_descriptor: int, _seconds: float) -> None:
        try:
            next(left)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(history_follow, "wait", step)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)


def test_follow_shows_each_change_once_as_it_ends(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before, the oldest first; those that were open; those that came since; Ctrl-C ends with 130."""
    node.end(node.receive(number=1), Outcome.APPLIED)
    node.end(node.receive(number=2), Outcome.FAILED)
    waits = node.receive(number=3)
    following(
        monkeypatch,
        lambda: node.end(node.receive(number=4), Outcome.APPLIED),
        lambda: node.end(waits, Outcome.REFUSED, "no"),
    )
    status, said, error = node.command("history", "--follow", "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert [int(row["id"][:8]) for row in rows] == [1, 2, 4, 3]
    assert (status, error) == (130, "")


def test_follow_chooses_as_the_table_does(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """By handler, failure and number; the head stands there once."""
    for number in (1, 2):
        node.end(node.receive(number=number), Outcome.FAILED)

    def more() -> None:
        node.end(node.receive(number=3), Outcome.APPLIED)
        node.end(node.receive(number=4), Outcome.FAILED)
        with node.opened() as opened:
            entry = opened.journal.queue("prover", event(b"x", number=5))
            opened.journal.end([Ending(entry, Outcome.FAILED)])

    following(monkeypatch, more)
    _, said, _ = node.command("history", "--follow", "--failed", "--handler", "writer", "--limit", "1")
    head, *rows = said.splitlines()
    assert head.startswith("TIME")
    assert [row.split()[4][:8] for row in rows] == ["00000002", "00000004"]


def test_follow_goes_on_when_the_journal_is_replaced(
    node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that something may be missing, and once that there is none."""
    node.receive(number=1)
    aside = node.state / "aside"

    def set_aside() -> None:
        for file in node.state.glob("journal.db*"):
            file.rename(aside.with_suffix(file.suffix))

    following(
        monkeypatch,
        set_aside,
        lambda: None,
        lambda: None,
        lambda: node.receive(number=2),
        lambda: node.end(node.receive(number=3), Outcome.APPLIED),
    )
    _, said, error = node.command("history", "--follow", "--json")
    assert [json.loads(line)["id"][:8] for line in said.splitlines()] == ["00000003"]
    assert [line.split(":")[2].split(";")[0].strip() for line in error.splitlines()] == [
        "the journal was replaced",
        f"there is no journal in {node.state} any more",
    ]


def test_follow_ends_when_nobody_reads(tmp_path: Path) -> None:
    """At once, not when the next change ends."""
    reads, writes = os.pipe()
    history_follow.wait(writes, 0)
    os.close(reads)
    with pytest.raises(BrokenPipeError):
        history_follow.wait(writes, 60)
    os.close(writes)
    with (tmp_path / "file").open("w") as file:
        history_follow.wait(file.fileno(), 0)

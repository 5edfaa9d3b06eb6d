"""`agentd replay`, for real and dry."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentd.journal.entry import RELAY, Outcome
from tests.unit.commands.node import SECRET, CommandNode, event


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node with one generation, whose writer wrote `old`."""
    made = CommandNode(tmp_path, capsys)
    made.commit(b"old\n")
    return made


def applied(node: CommandNode, payload: bytes) -> str:
    """An event that was applied; its ID."""
    entry = node.receive(payload)
    node.end(entry, Outcome.APPLIED)
    return entry.id


def everything(node: CommandNode) -> tuple[dict[str, bytes], list[str]]:
    """Every file below with content, and what the journal says.

    Not the journal's files: when SQLite moves what was written from its log to the file is up to SQLite,
    which puts it off while somebody reads, or where there is no room.
    """
    found = (path for path in node.directory.rglob("*") if path.is_file())
    files = {str(path): path.read_bytes() for path in found if not path.name.startswith("journal.db")}
    with closing(sqlite3.connect(f"{(node.state / 'journal.db').as_uri()}?mode=ro", uri=True)) as journal:
        return files, list(journal.iterdump())


def test_change_is_owed_again_and_waits_for_the_daemon(node: CommandNode) -> None:
    """Without a daemon the change waits in the journal, and the text says so."""
    identity = applied(node, b"new")
    status, said, _ = node.command("replay", identity[:8])
    assert status == 1
    assert "writer: waiting" in said
    assert "The daemon is not running" in said
    with node.opened() as opened:
        assert [entry.id for entry in opened.journal.pending("writer")] == [f"{identity}#2"]


def test_outcome_is_awaited_while_the_daemon_runs(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon ends meanwhile is printed; 0 if it was applied."""
    identity = applied(node, b"new")

    def daemon_works(_seconds: float) -> None:
        with node.opened() as opened:
            waiting = opened.journal.pending("writer")
        node.end(waiting[0], Outcome.APPLIED)

    monkeypatch.setattr("time.sleep", daemon_works)
    with node.daemon_runs():
        status, said, _ = node.command("replay", identity)
    assert (status, said) == (0, "writer: applied\n")


def test_refusal_is_told_with_its_reason(node: CommandNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that is refused again ends with 1 and says why."""
    identity = applied(node, b"new")

    def daemon_works(_seconds: float) -> None:
        with node.opened() as opened:
            waiting = opened.journal.pending("writer")
        node.end(waiting[0], Outcome.REFUSED, "still not wanted")

    monkeypatch.setattr("time.sleep", daemon_works)
    with node.daemon_runs():
        status, said, _ = node.command("replay", identity)
    assert (status, said) == (1, "writer: refused: still not wanted\n")


def test_unknown_id_is_told(node: CommandNode) -> None:
    """A wrong ID ends with 1, dry or not."""
    node.receive()
    for more in ([], ["--dry-run"]):
        status, _, error = node.command("replay", "ffffffff", *more)
        assert status == 1
        assert "no change 'ffffffff' in the journal" in error


def test_replay_to_a_handler_that_did_not_have_it_names_those_that_did(node: CommandNode) -> None:
    """A handler that there is, and that the change was not for."""
    identity = applied(node, b"new")
    _, _, error = node.command("replay", identity[:8], "--handler", "prover")
    assert "the handler 'prover' had no change '00000001': it was for writer" in error


def test_what_only_went_to_the_log_is_replayed_as_a_message(node: CommandNode) -> None:
    """`history` lists it under the relay, which is no handler."""
    with node.opened() as opened:
        opened.journal.queue(RELAY, event(b"x", number=5))
    assert node.json("history", "00000005")[0]["handler"] == RELAY
    _, _, error = node.command("replay", "00000005")
    assert "'00000005' only went to the fleet's log: replay the message that it became there" in error


def test_dry_run_shows_a_diff_and_changes_nothing(node: CommandNode) -> None:
    """Not a byte of the tree, and nothing in the journal, differs afterwards."""
    identity = applied(node, b"new")
    before = everything(node)
    status, said, _ = node.command("replay", identity, "--dry-run")
    assert status == 0
    assert said.splitlines()[:6] == [
        "writer: would be changed",
        "--- a/plain.txt",
        "+++ b/plain.txt",
        "@@ -1 +1 @@",
        "-old",
        "+new",
    ]
    assert everything(node) == before


def test_secret_file_shows_only_length_and_digest(node: CommandNode) -> None:
    """A file that others may not read never shows a line of it, in no form of output."""
    identity = applied(node, b"new")
    said = node.command("replay", identity, "--dry-run")[1]
    (secret,) = [
        file for file in node.json("replay", identity, "--dry-run")[0]["files"] if "key" in file["path"]
    ]
    assert "secret.key (mode 0600): no file -> 9 bytes sha256:" in said
    assert SECRET.decode() not in said
    assert secret["diff"] is None


def test_binary_file_shows_only_length_and_digest(node: CommandNode) -> None:
    """What is no text has no lines to compare."""
    identity = applied(node, b"binary")
    assert (
        "binary.dat (mode 0644): no file -> 2 bytes sha256:"
        in node.command("replay", identity, "--dry-run")[1]
    )


def test_programs_are_named_and_not_run(node: CommandNode) -> None:
    """The program's name shows, its arguments do not: they may be secret."""
    identity = applied(node, b"run")
    status, said, _ = node.command("replay", identity, "--dry-run")
    assert status == 0
    assert "would run /bin/program" in said
    assert "argument" not in said


@pytest.mark.parametrize(
    "payload, said",
    [(b"refuse", "would be refused: it is not wanted"), (b"later", "would be retried: not now")],
)
def test_dry_run_tells_that_the_handler_would_not_take_it(
    payload: bytes, said: str, node: CommandNode
) -> None:
    """A refusal or a failure for now ends with 1."""
    identity = applied(node, payload)
    status, told, _ = node.command("replay", identity, "--dry-run")
    assert status == 1
    assert said in told


def test_dry_run_of_a_change_that_changes_nothing(node: CommandNode) -> None:
    """The same content again would be unchanged."""
    node.commit(b"same\n")
    identity = applied(node, b"same")
    (told,) = node.json("replay", identity, "--dry-run")
    assert [file["path"] for file in told["files"]] == ["secret.key"]


def test_handler_that_is_gone_is_told(node: CommandNode) -> None:
    """A handler that stands no longer in the configuration cannot be run."""
    with node.opened() as opened:
        opened.journal.queue("gone", event(b"", number=9))
    status, _, error = node.command("replay", "00000009", "--dry-run")
    assert status == 1
    assert "'gone' that received it is no longer configured" in error

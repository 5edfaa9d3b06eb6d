"""`agentd pause`, `agentd resume`, and the pause that a rollback leaves, on a node without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import JournalError
from agentd.journal.pauses import Pauses
from agentd.journal.plan import Plan
from tests.unit.commands.node import CommandNode


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node that has not run yet."""
    return CommandNode(tmp_path, capsys)


def paused(node: CommandNode) -> list[str]:
    """What is paused there."""
    return sorted(Pauses(node.state).every())


def test_a_pause_says_what_waits_and_how_to_go_on(node: CommandNode) -> None:
    """Also where no daemon runs, and none ever did."""
    status, said, _ = node.command("pause", "writer", "--reason", "db work", "--for", "2h")

    assert status == 0
    assert said.startswith("Paused until ")
    assert ": writer." in said
    assert "daemon is not running: it will keep to that once it starts" in said
    assert "`agentd resume writer`" in said
    assert paused(node) == ["writer"]


def test_without_a_name_every_handler_is_paused(node: CommandNode) -> None:
    """Also one that is configured later; those that only prove are not named."""
    told = node.json("pause", "--reason", "night")

    assert (told["paused"], told["reason"], told["until"], told["late"]) == (["writer"], "night", None, [])
    assert paused(node) == ["*"]


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_an_unknown_handler_is_an_error_with_the_list(node: CommandNode, verb: str) -> None:
    """A slip must not pause nothing."""
    status, _, error = node.command(verb, "wirter")

    assert status == 1
    assert "there is no handler 'wirter': this node has writer" in error
    assert paused(node) == []


def test_a_handler_that_takes_only_notifications_cannot_be_paused(node: CommandNode) -> None:
    """The text says what to pause instead."""
    status, _, error = node.command("pause", "prover")

    assert status == 1
    assert "pause what notifies it (writer)" in error


@pytest.mark.parametrize(
    "words",
    [["--reason", "x" * 201], ["--reason", "a\nb"], ["--for", "0"], ["--for", "soon"], ["--reason", ""]],
)
def test_what_cannot_be_meant_is_a_usage_error(node: CommandNode, words: list[str]) -> None:
    """Before anything is paused."""
    with pytest.raises(SystemExit):
        node.command("pause", *words)
    assert paused(node) == []


def test_resuming_says_what_goes_on(node: CommandNode) -> None:
    """And nothing is no error."""
    nothing = node.command("resume")[1]
    node.command("pause")
    said = node.command("resume", "writer")[1]

    assert "Nothing was paused." in nothing
    assert said.startswith("writer goes on, after ")
    assert paused(node) == []


def test_all_is_resumed_also_if_the_file_is_damaged(node: CommandNode) -> None:
    """A single handler cannot be, since nobody knows what else was paused."""
    node.command("pause")
    (node.state / "paused.json").write_text("{")
    status, _, error = node.command("resume", "writer")

    assert (status, "`agentd resume` without a handler" in error) == (1, True)
    assert node.command("resume")[0] == 0
    assert paused(node) == []


def test_status_shows_it_without_a_daemon(node: CommandNode) -> None:
    """Since when, why, and what waits; that is worth an alarm."""
    node.receive()
    node.command("pause", "--reason", "db work")
    status, said, _ = node.command("status")
    told = node.json("status")

    assert status == 1
    assert "! writer is paused since " in said
    assert ": db work (1 change waits); to go on: `agentd resume`" in said
    assert told["handlers"]["writer"]["paused"]["reason"] == "db work"
    assert "been waiting since" not in said


def test_nobody_waits_for_a_handler_that_is_paused(node: CommandNode) -> None:
    """`--wait` says at once why it is not going to happen."""
    entry = node.receive()
    node.command("pause", "--reason", "db work")
    with node.daemon_runs():
        (row,) = node.json("replay", entry.id, "--wait", "100s")

    assert (row["state"], row["outcome"]) == ("waiting", None)
    assert row["reason"].endswith(": db work")


# ---------------------------------------------------------------- rollback


def test_a_rollback_pauses_the_handlers_whose_files_it_changed(node: CommandNode) -> None:
    """What they hear next would undo it; the text says how to go on."""
    node.commit(b"one")
    node.commit(b"two")
    said = node.command("rollback")[1]

    assert "Paused, so that nothing undoes that: writer. To go on: `agentd resume writer`." in said
    assert paused(node) == ["writer"]
    assert Pauses(node.state).every()["writer"].reason == "rolled back to generation 1"


def test_a_rollback_leaves_a_pause_that_was_there(node: CommandNode) -> None:
    """Its reason stays."""
    node.commit(b"one")
    node.commit(b"two")
    node.command("pause", "writer", "--reason", "db work")

    assert node.json("rollback")["paused"] == []
    assert Pauses(node.state).every()["writer"].reason == "db work"


def test_a_rollback_that_fails_pauses_nothing(node: CommandNode) -> None:
    """There is nothing that could be undone."""
    node.commit(b"one")
    node.commit(b"two")
    (node.directory / "tree" / "generations" / "000001" / "plain.txt").unlink()

    assert node.command("rollback", "1")[0] == 1
    assert paused(node) == []


def test_a_rollback_leaves_handlers_with_secrets_alone(node: CommandNode) -> None:
    """Their files stay those of today, so there is nothing to protect."""
    with node.opened() as opened:
        for text in (b"one", b"two"):
            stage = opened.tree.stage("writer")
            stage.write("plain.txt", text)
            stage.write("secret.key", b"k" + text, mode=0o600, secret=True)
            opened.committer.commit(stage, Plan(handler="writer"))

    assert node.json("rollback")["paused"] == []
    assert paused(node) == []


def test_a_rollback_goes_on_if_nothing_can_be_paused(
    node: CommandNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a full disk: it is more urgent, and the command warns."""
    node.commit(b"one")
    node.commit(b"two")

    def full(*_: object) -> None:
        raise JournalError("cannot change paused.json: No space left on device")

    monkeypatch.setattr(Pauses, "pause", full)
    _, said, warned = node.command("rollback")

    assert "Generation 1 is current again" in said
    assert "Paused" not in said
    assert "warning: not paused, so the next change may undo it: cannot change paused.json" in warned

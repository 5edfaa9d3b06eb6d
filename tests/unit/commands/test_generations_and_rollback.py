"""`agentd generations` and `agentd rollback` on a node whose daemon does not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.commands.node import CommandNode


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandNode:
    """A node without a generation."""
    return CommandNode(tmp_path, capsys)


@pytest.fixture
def committed(node: CommandNode) -> CommandNode:
    """A node with generations 1 and 2; 2 is current."""
    node.commit(b"one")
    node.commit(b"two")
    return node


def plain(node: CommandNode) -> str:
    """The file that nginx would read."""
    return (node.directory / "tree" / "current" / "plain.txt").read_text()


def test_no_generation_yet_says_so(node: CommandNode) -> None:
    """Before the first commit there is nothing to list."""
    assert node.command("generations")[:2] == (0, "There is no generation yet.\n")


def test_generations_are_listed_newest_first_with_their_maker(committed: CommandNode) -> None:
    """Number, maker, parent, changed paths and files; one is current."""
    newest, oldest = committed.json("generations")
    assert (newest["generation"], newest["current"], newest["by"], newest["parent"]) == (2, True, "writer", 1)
    assert newest["changed"] == ["plain.txt"]
    assert "plain.txt" in newest["files"]
    assert (oldest["generation"], oldest["current"]) == (1, False)


def test_table_marks_the_current_one(committed: CommandNode) -> None:
    """One line a generation; the current one carries the word."""
    _, first, second = committed.command("generations")[1].splitlines()
    assert first.split()[:2] == ["current", "2"]
    assert second.split()[0] == "1"
    assert first.endswith("plain.txt")


def test_table_counts_many_paths_by_directory(node: CommandNode) -> None:
    """A first generation would fill three lines; a program reads JSON, which names each."""
    paths = [f"many/{number}.conf" for number in range(40)]
    node.commit(b"x", *paths)
    assert node.command("generations")[1].splitlines()[1].endswith("  many/ (40 files), ./ (1 file)")
    assert node.json("generations")[0]["changed"] == [*sorted(paths), "plain.txt"]


def test_table_names_a_few_paths(node: CommandNode) -> None:
    """As a usual commit has them."""
    node.commit(b"x", "some/a.conf", "some/b.conf")
    assert node.command("generations")[1].splitlines()[1].endswith("  plain.txt, some/a.conf, some/b.conf")


def test_rollback_goes_to_the_parent_and_says_what_is_left_to_do(committed: CommandNode) -> None:
    """Without a daemon nginx is not reloaded: status 1, and the text says what to run."""
    status, said, _ = committed.command("rollback")
    assert (status, plain(committed)) == (1, "one")
    assert "Generation 1 is current again, instead of 2." in said
    assert "run `nginx -s reload`" in said


def test_rollback_owes_the_reload_through_the_journal(committed: CommandNode) -> None:
    """The proving handler finds a notification when the daemon starts."""
    told = committed.json("rollback", "1")
    assert (told["generation"], told["before"]) == (1, 2)
    (reload,) = told["reloads"]
    assert (reload["handler"], reload["state"]) == ("prover", "waiting")
    with committed.opened() as node:
        (entry,) = node.journal.pending("prover")
    assert entry.id == reload["id"]


def test_rollback_forward_again_is_possible(committed: CommandNode) -> None:
    """A generation that was rolled back stays, and can be made current again."""
    committed.command("rollback")
    committed.command("rollback", "2")
    assert plain(committed) == "two"


def test_rollback_that_the_daemon_does_not_prove_in_time_fails(committed: CommandNode) -> None:
    """A daemon that runs but does not answer within --wait: not known to be live."""
    with committed.daemon_runs():
        status, said, _ = committed.command("rollback", "--wait", "0")
    assert status == 1
    assert "nginx has not been proved to run it yet" in said


@pytest.mark.parametrize(
    "target, said",
    [
        ("2", "generation 2 is already current"),
        ("77", "77"),
    ],
)
def test_impossible_target_is_told(target: str, said: str, committed: CommandNode) -> None:
    """The current one and one that does not exist are refused, and nothing moves."""
    status, _, error = committed.command("rollback", target)
    assert (status, plain(committed)) == (1, "two")
    assert said in error


def test_first_generation_has_nothing_before_it(node: CommandNode) -> None:
    """Rolling back from the first is refused with the command that lists the others."""
    node.commit(b"one")
    status, _, error = node.command("rollback")
    assert (status, plain(node)) == (1, "one")
    assert "pick one from `agentd generations`" in error


def test_rollback_without_a_tree_is_told(node: CommandNode) -> None:
    """No generation: the daemon has to run first."""
    node.receive()
    assert "there is no generation yet" in node.command("rollback")[2]

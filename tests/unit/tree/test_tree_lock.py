"""Several threads and processes on one tree."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from agentd.errors import TreeError
from tests.unit.tree.trees import commit, generations, live, new_tree


def test_threads_lose_none_of_each_others_commits(tmp_path: Path) -> None:
    """Four workers, five commits each."""
    tree = new_tree(tmp_path, keep=50, patience=30.0)

    def work(owner: str) -> None:
        for number in range(5):
            commit(tree, owner, {f"{owner}/{number}": b"x"})

    threads = [threading.Thread(target=work, args=(f"h{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(live(tree)) == sorted(f"h{n}/{number}" for n in range(4) for number in range(5))
    assert tree.current == len(generations(tree)) == 20


def test_processes_lose_none_of_each_others_commits(tmp_path: Path) -> None:
    """A command line commits while the daemon does."""
    commit(new_tree(tmp_path), "first", {"a": b""})
    children = []
    for owner in ("p1", "p2"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for number in range(5):
                    commit(new_tree(tmp_path, keep=50, patience=30.0), owner, {f"{owner}/{number}": b"x"})
                status = 0
            finally:
                os._exit(status)
        children.append(child)

    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(live(new_tree(tmp_path))) == 11


def test_a_tree_that_another_process_holds_is_an_error_after_a_while(tmp_path: Path) -> None:
    """The message says how to find it; when it lets go, the next attempt succeeds."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a": b"1"})
    with (tree.path / ".lock").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TreeError, match="fuser"):
            commit(tree, "one", {"a": b"2"})
        assert tree.open_current().read("a") == b"1"

    commit(tree, "one", {"a": b"2"})
    assert tree.open_current().read("a") == b"2"


def test_a_deleted_lock_file_is_made_again(tmp_path: Path) -> None:
    """A lock on a file that has no name any more excludes nobody, and does not count."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a": b"1"})
    with (tree.path / ".lock").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        (tree.path / ".lock").unlink()

        commit(tree, "one", {"a": b"2"})

    assert tree.open_current().read("a") == b"2"


def test_a_lock_lost_while_it_was_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted between opening and locking: then another one of the same name is in force."""
    tree = new_tree(tmp_path, patience=10.0)
    commit(tree, "one", {"a": b"1"})
    flock = fcntl.flock
    deleted: list[bool] = []

    def late(descriptor: int, operation: int) -> None:
        if not deleted:
            deleted.append(True)
            (tree.path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    commit(tree, "one", {"a": b"2"})

    assert (tree.open_current().read("a"), deleted) == (b"2", [True])


def test_the_lock_may_be_nested(tmp_path: Path) -> None:
    """Who holds the tree still can commit to it."""
    tree = new_tree(tmp_path)
    with tree.locked(), tree.locked():
        commit(tree, "one", {"a": b"1"})
        with (tree.path / ".lock").open("r+b") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert tree.current == 1


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    """The next commit does not wait for it."""
    tree = new_tree(tmp_path)
    with pytest.raises(KeyError), tree.locked():
        raise KeyError

    assert commit(tree, "one", {"a": b"1"}) is not None

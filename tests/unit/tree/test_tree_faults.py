"""The tree when the disk fails, or the process dies, at any of its system calls."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from agentd.errors import TreeError
from agentd.tree.tree import Tree
from tests.unit.tree.faults import failing, fault, killed_at
from tests.unit.tree.trees import Files, commit, content, everything, generations, live, new_tree, unprepared

MOST = 400  # more system calls than any of these needs
OLD: Files = {"a/x": (b"old", 0o644), "same": (b"s", 0o644)}
NEW: Files = {"a/x": (b"new", 0o644), "n/m": (b"n", 0o644), "same": (b"s", 0o644)}

Work = Callable[[Tree], object]


def change(tree: Tree) -> None:
    """Commit NEW over OLD."""
    commit(tree, "one", {"a/x": b"new", "n/m": b"n"})


def back(tree: Tree) -> None:
    """Roll back from NEW to OLD."""
    tree.roll_back(1, prepare=unprepared)
    with suppress(TreeError):
        tree.tidy()


def at_old(directory: Path) -> Tree:
    """A tree whose only generation is OLD."""
    tree = new_tree(directory, keep=2)
    commit(tree, "one", {"a/x": b"old", "same": b"s"})
    return tree


def at_new(directory: Path) -> Tree:
    """A tree of OLD and then NEW."""
    tree = at_old(directory)
    change(tree)
    return tree


def deleted(directory: Path) -> Tree:
    """A tree that held OLD, of which only the mirror is left."""
    tree = at_old(directory)
    shutil.rmtree(tree.path)
    return tree


@pytest.mark.parametrize("begin, work, before, after", [(at_old, change, OLD, NEW), (at_new, back, NEW, OLD)])
def test_killed_at_any_system_call_it_is_all_or_nothing(
    tmp_path: Path, begin: Callable[[Path], Tree], work: Work, before: Files, after: Files
) -> None:
    """`current` leads to the old or to the new files, complete; a restart goes on from there."""
    outcomes = set()
    for step in count(1):
        directory = tmp_path / str(step)
        tree = begin(directory)
        if not killed_at(step, lambda: work(tree)):  # noqa: B023 (called at once)
            break
        assert step < MOST

        restarted = new_tree(directory, keep=2)
        restarted.recover()
        assert restarted.intact(), step
        found = live(restarted)
        assert found in (before, after), step
        outcomes.add(found == after)

        shutil.rmtree(restarted.path)
        restarted.restore()
        assert live(restarted) == found, "the mirror has caught up"

        commit(restarted, "two", {"later": str(step).encode()})
        assert live(restarted)["later"] == (str(step).encode(), 0o644)
        assert not list(directory.rglob("*/.new-*")) + list(directory.rglob(".old-*"))
    assert outcomes == {True, False}


def test_killed_while_restoring_it_can_be_restored_again(tmp_path: Path) -> None:
    """The mirror stays whole until the tree is."""
    for step in count(1):
        directory = tmp_path / str(step)
        tree = deleted(directory)
        if not killed_at(step, tree.restore):
            assert live(tree) == OLD
            return
        assert step < MOST

        restarted = new_tree(directory, keep=2)
        restarted.recover()
        assert restarted.intact() or restarted.restore() == 1
        assert live(restarted) == OLD, step


@pytest.mark.parametrize("begin, work, before, after", [(at_old, change, OLD, NEW), (at_new, back, NEW, OLD)])
def test_an_error_at_any_system_call_is_all_or_nothing(
    tmp_path: Path, begin: Callable[[Path], Tree], work: Work, before: Files, after: Files
) -> None:
    """An error before the flip is raised and leaves the old files; one after it only costs the mirror."""
    outcomes = set()
    for step in count(1):
        tree = begin(tmp_path / str(step))
        raised = False
        with fault(step, failing(errno.ENOSPC)) as calls:
            try:
                work(tree)
            except TreeError:
                raised = True
        if len(calls) < step:
            break
        assert step < MOST

        assert tree.intact(), calls
        assert live(tree) == (before if raised else after), calls
        outcomes.add(raised)
        if raised:
            tree.recover()
            assert len(generations(tree)) == (1 if begin is at_old else 2)
            work(tree)
            assert live(tree) == after, "the next attempt succeeds without a restart"
    assert outcomes == {True, False}


def test_a_disk_that_stays_broken_leaves_the_live_tree(tmp_path: Path) -> None:
    """When cleaning up fails as well, the rest is swept away later."""
    tree = at_old(tmp_path)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, broken)
        with pytest.raises(TreeError, match="read-only"):
            change(tree)
    assert live(tree) == OLD

    tree.recover()
    assert [path.name for path in (tree.path / "generations").iterdir()] == ["000001"]


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "owner and mode"),
        (errno.EROFS, "ReadWritePaths"),
        (errno.ENOENT, "is missing"),
        (errno.ELOOP, "move it away"),
        (errno.EBUSY, "system log"),
    ],
)
def test_an_error_says_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    """The path and the system's reason are in it, too."""
    tree = at_old(tmp_path)

    with fault(1, failing(number)), pytest.raises(TreeError, match=advice) as raised:
        change(tree)

    assert os.strerror(number) in str(raised.value)


def test_recovery_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    """Names that are not ours stay, hidden or not."""
    tree = at_old(tmp_path)
    before = everything(tree.path)
    foreign = [tree.path / ".keep-me", tree.path / "generations" / ".git-ignore", tree.path / "notes"]
    for path in foreign:
        path.write_text("mine")
    for name in (".new-000009-abc", ".old-000001-abc"):
        (tree.path / "generations" / name / "sub").mkdir(parents=True)
    (tree.path / ".scratch-dead").mkdir()
    (tree.path / ".current-dead").symlink_to("generations/000001")

    tree.recover()

    assert [path.read_text() for path in foreign] == ["mine"] * 3
    for path in foreign:
        path.unlink()
    assert everything(tree.path) == before


def test_generations_never_change(tmp_path: Path) -> None:
    """Whatever comes after, an old generation's bytes and modes stay."""
    tree = new_tree(tmp_path, keep=10)
    kept: dict[int, Files] = {}
    for data in (b"1", b"2", b"3"):
        commit(tree, "one", {"a": data, "same": b"s"})
        kept[tree.current] = content((tree.path / "current").resolve())
    stage = tree.stage("one")
    stage.write("same", b"s", mode=0o600)
    tree.commit(stage, extra={}, prepare=unprepared)
    tree.roll_back(2, prepare=unprepared)
    tree.tidy()
    shutil.rmtree(tree.path / "generations" / "000002")
    tree.restore()

    assert {n: content(tree.path / "generations" / f"{n:06d}") for n in kept} == kept

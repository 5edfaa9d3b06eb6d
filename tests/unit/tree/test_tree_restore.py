"""Mending a tree that somebody deleted, from its mirror."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.errors import TreeError
from agentd.tree.tree import Tree
from tests.unit.tree.trees import Files, commit, content, everything, live, new_tree, unprepared

FILES: Files = {"a/x": (b"1", 0o644), "b": (b"2", 0o644)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree with FILES in generation 2."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a/x": b"1"})
    commit(tree, "two", {"b": b"2"})
    return tree


def _file(tree: Tree) -> None:
    (tree.path / "current" / "a" / "x").unlink()


def _truncated(tree: Tree) -> None:
    path = tree.path / "current" / "a" / "x"
    path.unlink()
    path.write_bytes(b"")


def _current(tree: Tree) -> None:
    (tree.path / "current").unlink()


def _manifest(tree: Tree) -> None:
    (tree.path / "current" / "manifest.json").unlink()


def _dangling(tree: Tree) -> None:
    (tree.path / "current").unlink()
    (tree.path / "current").symlink_to("generations/000077")


DAMAGES: list[Callable[[Tree], None]] = [
    lambda tree: shutil.rmtree(tree.path),
    lambda tree: shutil.rmtree(tree.path / "generations"),
    lambda tree: shutil.rmtree((tree.path / "current").resolve()),
    _file,
    _truncated,
    _current,
    _manifest,
    _dangling,
]
each_damage = pytest.mark.parametrize("damage", DAMAGES)


@each_damage
def test_a_damaged_tree_is_restored_under_its_number(tree: Tree, damage: Callable[[Tree], None]) -> None:
    """Byte for byte, manifest included."""
    before = content((tree.path / "current").resolve())
    damage(tree)
    assert not tree.intact()

    assert tree.restore() == 2

    assert tree.intact()
    assert tree.current == 2
    assert content((tree.path / "current").resolve()) == before


@each_damage
def test_a_commit_on_a_damaged_tree_mends_it_first(tree: Tree, damage: Callable[[Tree], None]) -> None:
    """Other handlers' files are not lost because one handler commits first."""
    stage = tree.stage("one")
    stage.write("new", b"3")
    damage(tree)

    tree.commit(stage, extra={}, prepare=unprepared)

    assert live(tree) == {**FILES, "new": (b"3", 0o644)}


@each_damage
def test_a_stage_on_a_damaged_tree_mends_it_first(tree: Tree, damage: Callable[[Tree], None]) -> None:
    """A handler never sees its files gone."""
    damage(tree)

    assert tree.stage("one").read("a/x") == b"1"
    assert tree.intact()


def test_the_mirror_follows_a_roll_back(tree: Tree) -> None:
    """It holds what is current, not what is newest."""
    tree.roll_back(1, prepare=unprepared)
    tree.tidy()
    shutil.rmtree(tree.path)

    assert tree.restore() == 1
    assert live(tree) == {"a/x": (b"1", 0o644)}


def test_an_intact_tree_is_left_alone(tree: Tree) -> None:
    """Restoring twice, or by two threads, does nothing the second time."""
    before = everything(tree.path)

    assert tree.restore() == 2
    assert everything(tree.path) == before


def test_without_a_copy_there_is_nothing_to_restore(tmp_path: Path) -> None:
    """Neither before the first commit nor without a mirror."""
    assert new_tree(tmp_path).restore() is None

    bare = new_tree(tmp_path, mirror=None)
    commit(bare, "one", {"a": b"1"})
    shutil.rmtree(bare.path)

    assert bare.restore() is None


def test_damage_that_cannot_be_mended_stops_commits(tmp_path: Path) -> None:
    """Rather an error that says what to do than a generation without the other handlers' files."""
    tree = new_tree(tmp_path, mirror=None)
    commit(tree, "one", {"a": b"1"})
    commit(tree, "two", {"b": b"2"})
    (tree.path / "current" / "b").unlink()

    with pytest.raises(TreeError, match="agentd rollback"):
        tree.stage("two")
    with pytest.raises(TreeError):
        tree.open_current().read("b")

    tree.roll_back(1, prepare=unprepared)
    assert tree.stage("one").read("a") == b"1"


def test_a_damaged_mirror_is_not_restored_from(tree: Tree) -> None:
    """Wrong content is worse than none."""
    shutil.rmtree(tree.path)
    mirror = tree.path.parent / "mirror"
    copy = mirror / "000002" / "b"
    copy.unlink()
    copy.write_bytes(b"!")

    with pytest.raises(TreeError, match="is damaged"):
        tree.restore()
    (mirror / "000002" / "manifest.json").write_text("{")
    with pytest.raises(TreeError, match="cannot be read"):
        tree.restore()

    assert not (tree.path / "current").exists()


def test_a_mirror_that_cannot_be_written_does_not_fail_the_commit(tree: Tree, tmp_path: Path) -> None:
    """It is logged, and the next commit writes it again."""
    shutil.rmtree(tmp_path / "mirror")
    (tmp_path / "mirror").write_text("a file in the way")

    with capture_logs() as logs:
        commit(tree, "one", {"a/x": b"new"})
    assert [line["event"] for line in logs] == ["tree.mirror_failed"]
    assert tree.open_current().read("a/x") == b"new"

    (tmp_path / "mirror").unlink()
    commit(tree, "one", {"a/x": b"newer"})
    shutil.rmtree(tree.path)
    assert tree.restore() == tree.current == 4


def test_the_mirror_is_private_and_holds_one_generation(tree: Tree) -> None:
    """Keys lie in it."""
    mirror = tree.path.parent / "mirror"

    assert stat.S_IMODE(mirror.stat().st_mode) == 0o700
    assert {path.name for path in mirror.iterdir()} == {"000002", "current"}


def test_a_directory_in_the_place_of_current_is_named(tree: Tree) -> None:
    """Nothing of an operator's is deleted to make room."""
    (tree.path / "current").unlink()
    (tree.path / "current").mkdir()
    (tree.path / "current" / "precious").write_text("mine")

    with pytest.raises(TreeError, match="move it away"):
        tree.restore()

    assert (tree.path / "current" / "precious").read_text() == "mine"

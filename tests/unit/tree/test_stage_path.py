"""The files on disk that a stage hands to programs."""

from __future__ import annotations

from pathlib import Path

from tests.unit.tree.trees import commit, new_tree


def test_a_current_file_is_the_generations_own(tmp_path: Path) -> None:
    """What is current is not copied."""
    tree = new_tree(tmp_path)
    commit(tree, "lists", {"a": b"1"})

    path = tree.stage("lists").path("a")

    assert path is not None
    assert path.samefile(tree.path / "current" / "a")


def test_what_is_staged_comes_first(tmp_path: Path) -> None:
    """Staged bytes and staged files are found on disk, a staged removal and no file at all are None."""
    tree = new_tree(tmp_path)
    commit(tree, "lists", {"bytes": b"old", "file": b"old", "gone": b"old"})
    (tmp_path / "source").write_bytes(b"from disk")
    stage = tree.stage("lists")
    stage.write("bytes", b"from memory")
    stage.write_file("file", tmp_path / "source")
    stage.remove("gone")

    found = [stage.path(name) for name in ("bytes", "file", "gone", "never")]

    assert [path and path.read_bytes() for path in found] == [b"from memory", b"from disk", None, None]

"""What nginx makes of a long list (FILE.bin) goes along with the list, as long as that does not change."""

from __future__ import annotations

from pathlib import Path

from tests.unit.tree.trees import commit, new_tree


def test_what_nginx_made_of_an_unchanged_file_goes_along(tmp_path: Path) -> None:
    """The next generation has the very same copy beside the very same file."""
    tree = new_tree(tmp_path)
    commit(tree, "lists", {"a/long": b"1", "a/short": b"1"})
    made = tree.path / "current" / "a" / "long.bin"
    made.write_bytes(b"from nginx")

    commit(tree, "lists", {"a/short": b"2"})

    assert (tree.path / "current" / "a" / "long.bin").stat().st_ino == made.stat().st_ino
    assert tree.intact()


def test_what_nginx_made_of_an_earlier_content_is_left_behind(tmp_path: Path) -> None:
    """A file of new content has nothing beside it that could be taken for its own."""
    tree = new_tree(tmp_path)
    commit(tree, "lists", {"long": b"1"})
    (tree.path / "current" / "long.bin").write_bytes(b"from nginx")

    commit(tree, "lists", {"long": b"2"})

    assert not (tree.path / "current" / "long.bin").exists()


def test_a_symbolic_link_beside_a_file_is_no_way_out(tmp_path: Path) -> None:
    """What lies there is linked as it is, never followed."""
    tree = new_tree(tmp_path)
    commit(tree, "lists", {"long": b"1", "short": b"1"})
    (tree.path / "current" / "long.bin").symlink_to(tmp_path)

    commit(tree, "lists", {"short": b"2"})

    assert (tree.path / "current" / "long.bin").is_symlink()

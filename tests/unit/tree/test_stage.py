"""Staging: what one attempt sees and may write."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from agentd.errors import PermanentError, TreeError
from agentd.handler import Files
from agentd.tree.tree import Tree
from tests.unit.tree.trees import commit, live, new_tree, unprepared


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree in which `one` owns a/x and a/y, and `two` owns b."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a/x": b"1", "a/y": b"2"})
    commit(tree, "two", {"b": b"3"})
    return tree


def scratches(tree: Tree) -> list[str]:
    """The private directories beside the generations."""
    return [path.name for path in tree.path.glob(".scratch-*")]


def test_it_is_what_a_handler_expects(tree: Tree) -> None:
    """A stage implements the protocol that handlers are written to."""
    files: Files = tree.stage("one")

    assert files.reference("a/x") == "agentd/current/a/x"


def test_staged_content_is_read_back_and_the_tree_is_untouched(tree: Tree) -> None:
    """The layer is over the generation, not in it."""
    stage = tree.stage("one")
    stage.write("a/x", b"new")

    assert (stage.read("a/x"), stage.read("a/y"), stage.read("b"), stage.read("none")) == (
        b"new",
        b"2",
        b"3",
        None,
    )
    assert tree.open_current().read("a/x") == b"1"


def test_a_removed_file_reads_as_none(tree: Tree) -> None:
    """Removal is staged like anything else, and may be repeated."""
    stage = tree.stage("one")
    stage.remove("a/x")
    stage.remove("a/x")
    stage.remove("never/was")

    assert stage.read("a/x") is None
    assert tree.open_current().read("a/x") == b"1"


def test_paths_are_the_handlers_own(tree: Tree) -> None:
    """Another handler's files and agentd's own are not among them."""
    stage = tree.stage("one")
    stage.write("a/z", b"")
    stage.write("c", b"")
    stage.remove("a/y")

    assert stage.paths() == ["a/x", "a/z", "c"]
    assert stage.paths("a/") == ["a/x", "a/z"]


@pytest.mark.parametrize("path", ["b", "b/below", "agentd.conf", "../out"])
def test_what_is_not_ours_cannot_be_written(tree: Tree, path: str) -> None:
    """Another handler's file, a path below it, agentd's own file, and a path outside."""
    stage = tree.stage("one")

    with pytest.raises(PermanentError):
        stage.write(path, b"")
    with pytest.raises(PermanentError):
        stage.write_file(path, Path("/dev/null"))

    assert not stage.changed


def test_what_is_not_ours_cannot_be_removed(tree: Tree) -> None:
    """The error names the owner."""
    with pytest.raises(PermanentError, match="'two'"):
        tree.stage("one").remove("b")


def test_a_file_cannot_take_the_place_of_a_directory(tree: Tree) -> None:
    """Until all below it is removed."""
    stage = tree.stage("one")
    with pytest.raises(PermanentError, match="cannot both be files"):
        stage.write("a", b"")

    stage.remove("a/x")
    stage.remove("a/y")
    stage.write("a", b"now")

    assert stage.changed == ("a", "a/x", "a/y")


def test_a_bad_mode_is_refused(tree: Tree) -> None:
    """From memory and from disk alike."""
    with pytest.raises(PermanentError, match="mode"):
        tree.stage("one").write("k", b"", mode=0o4755)
    with pytest.raises(PermanentError, match="mode"):
        tree.stage("one").write_file("k", Path("/dev/null"), mode=0)


def test_changed_is_what_differs(tree: Tree) -> None:
    """Equal content is no change, another mode is one."""
    stage = tree.stage("one")
    stage.write("a/x", b"1")
    assert not stage.changed

    stage.write("a/x", b"1", mode=0o600)
    stage.write("n", b"new")
    stage.remove("a/y")

    assert stage.changed == ("a/x", "a/y", "n")
    modes = {path: tuple(one and one.mode for one in both) for path, both in stage.entries().items()}
    assert modes == {"a/x": (0o644, 0o600), "a/y": (0o644, None), "n": (None, 0o644)}
    assert [stage.before(path) for path in stage.changed] == [b"1", b"2", None]


def test_a_file_on_disk_is_taken_as_it_is_now(tree: Tree, tmp_path: Path) -> None:
    """What happens to the source afterwards does not matter."""
    source = tmp_path / "list"
    source.write_bytes(b"10.0.0.0/8 1;\n" * 100_000)
    stage = tree.stage("one")
    stage.write_file("lists/v4", source, mode=0o640)
    source.write_bytes(b"overwritten")
    source.unlink()

    tree.commit(stage, extra={}, prepare=unprepared)

    assert live(tree)["lists/v4"] == (b"10.0.0.0/8 1;\n" * 100_000, 0o640)
    assert stage.read("lists/v4") == tree.open_current().read("lists/v4")


def test_a_source_that_cannot_be_read_is_an_error_of_the_tree(tree: Tree, tmp_path: Path) -> None:
    """It says which file."""
    with pytest.raises(TreeError, match=str(tmp_path / "gone")):
        tree.stage("one").write_file("x", tmp_path / "gone")


def test_a_forgotten_stage_leaves_nothing_on_disk(tree: Tree) -> None:
    """Nobody has to close it."""
    stage = tree.stage("one")
    stage.write_file("x", Path("/dev/null"))
    assert len(scratches(tree)) == 1

    del stage
    gc.collect()

    assert scratches(tree) == []


def test_a_closed_stage_leaves_nothing_on_disk(tree: Tree) -> None:
    """Closing twice, or with nothing on disk, is no error; what lay there is gone."""
    stage = tree.stage("one")
    stage.close()
    stage.write_file("x", Path("/dev/null"))
    stage.close()
    stage.close()

    assert scratches(tree) == []
    with pytest.raises(TreeError):
        stage.read("x")


def test_recovery_spares_the_stages_of_the_living(tree: Tree) -> None:
    """Another process that starts does not take away what this one has staged."""
    stage = tree.stage("one")
    stage.write_file("x", Path("/dev/null"))

    new_tree(tree.path.parent).recover()

    assert stage.read("x") == b""


def test_reset_drops_what_came_after_the_mark(tree: Tree) -> None:
    """So that one bad change of a batch leaves the others staged."""
    stage = tree.stage("one")
    stage.write("a/x", b"good")
    mark = stage.mark()
    stage.write("a/x", b"bad")
    stage.remove("a/y")

    stage.reset(mark)

    assert (stage.read("a/x"), stage.read("a/y")) == (b"good", b"2")
    assert stage.mark() == mark


def test_equal_marks_mean_that_the_same_would_be_committed(tree: Tree) -> None:
    """Writing what is there already, or undoing a change, is no difference."""
    stage = tree.stage("one")
    clean = stage.mark()

    stage.write("a/x", b"1")
    stage.remove("never/was")
    assert stage.mark() == clean

    stage.write("a/x", b"2")
    assert stage.mark() != clean
    stage.write("a/x", b"1")
    assert stage.mark() == clean


def test_disowned_files_go_and_their_paths_are_free(tree: Tree) -> None:
    """A handler that is configured no more leaves nothing behind, and one of another name may follow it."""
    stage = tree.stage("heir")
    stage.disown("one")
    stage.write("a/x", b"heir's")

    tree.commit(stage, extra={}, prepare=unprepared)

    assert live(tree) == {"a/x": (b"heir's", 0o644), "b": (b"3", 0o644)}
    assert tree.stage("heir").paths() == ["a/x"]


def test_a_disowned_file_is_not_read(tree: Tree) -> None:
    """It counts as removed at once."""
    stage = tree.stage("heir")
    stage.disown("one")

    assert (stage.read("a/x"), stage.read("b")) == (None, b"3")


def test_a_file_that_vanished_is_an_error_of_the_tree(tree: Tree) -> None:
    """A stage whose generation was deleted says so."""
    stage = tree.stage("one")
    (tree.path / "current" / "a" / "x").unlink()

    with pytest.raises(TreeError, match="damaged"):
        stage.read("a/x")


def test_joined_stages_are_committed_as_one(tree: Tree, tmp_path: Path) -> None:
    """Each handler's files stay its own, and a large file lives on with the stage that took it over."""
    (tmp_path / "source").write_bytes(b"large")
    all_of_them = tree.stage("one")
    all_of_them.write("a/x", b"one's")
    other = tree.stage("two")
    other.write("b", b"two's")
    other.write_file("c", tmp_path / "source")

    all_of_them.join(other)
    del other
    gc.collect()
    tree.commit(all_of_them, extra={}, prepare=unprepared)

    assert {path: data for path, (data, _) in live(tree).items()} == {
        "a/x": b"one's", "a/y": b"2", "b": b"two's", "c": b"large",
    }  # fmt: skip
    assert tree.stage("two").paths() == ["b", "c"]


def test_stages_of_the_same_path_cannot_be_joined(tree: Tree) -> None:
    """Both owners are named."""
    one, two = tree.stage("one"), tree.stage("two")
    one.write("new", b"")
    two.write("new", b"")

    with pytest.raises(PermanentError, match="'one' and by 'two'"):
        one.join(two)


def test_joined_stages_are_held_to_their_owners(tree: Tree) -> None:
    """Joining gives no handler a right to another's files."""
    joined = tree.stage("one")
    joined.join(tree.stage("two"))

    with pytest.raises(PermanentError, match="'two'"):
        joined.write("b", b"")

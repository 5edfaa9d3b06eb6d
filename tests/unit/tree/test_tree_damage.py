"""Files of a generation that somebody, or the disk, changed behind agentd's back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.errors import TreeError
from agentd.tree import disk
from agentd.tree.generation import FileEntry
from agentd.tree.tree import Tree
from tests.unit.tree.trees import commit, content, generations, live, new_tree, unprepared

FILES = {"a/x": (b"one one", 0o644), "a/y": (b"two", 0o644), "b": (b"three", 0o644)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree with FILES in generation 2, two of them shared with generation 1."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a/x": b"one one", "a/y": b"two"})
    commit(tree, "two", {"b": b"three"})
    assert tree.intact()
    return tree


def _in(tree: Tree, path: str = "a/x") -> Path:
    return tree.path / "generations" / "000002" / path


def flip(path: Path) -> None:
    """Change one byte in place, and nothing else that a person would see."""
    found = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _written_over(tree: Tree) -> None:
    _in(tree).write_bytes(b"one 0ne")


def _replaced_by_a_link(tree: Tree) -> None:
    shutil.copy(_in(tree), tree.path.parent / "elsewhere")
    _in(tree).unlink()
    _in(tree).symlink_to(tree.path.parent / "elsewhere")


def _replaced_by_a_directory(tree: Tree) -> None:
    _in(tree).unlink()
    _in(tree).mkdir()


def _replaced_by_a_fifo(tree: Tree, path: str) -> None:
    _in(tree, path).unlink()
    os.mkfifo(_in(tree, path))


def _directory_replaced_by_a_file(tree: Tree) -> None:
    shutil.rmtree(_in(tree, "a"))
    _in(tree, "a").write_bytes(b"")


def _directory_replaced_by_a_link(tree: Tree) -> None:
    _in(tree, "a").rename(tree.path.parent / "a")
    (tree.path.parent / "a" / "x").unlink()
    _in(tree, "a").symlink_to(tree.path.parent / "a")


def _copied_over(tree: Tree) -> None:
    new = tree.path.parent / "new"
    new.write_bytes(b"two two")
    new.rename(_in(tree))


DAMAGES: dict[str, Callable[[Tree], object]] = {
    "a byte flipped": lambda tree: flip(_in(tree)),
    "written over": _written_over,
    "truncated": lambda tree: os.truncate(_in(tree), 3),
    "emptied": lambda tree: os.truncate(_in(tree), 0),
    "made longer": lambda tree: os.truncate(_in(tree), 30),
    "another mode": lambda tree: _in(tree).chmod(0o600),
    "no rights": lambda tree: _in(tree).chmod(0),
    "replaced by another file": _copied_over,
    "replaced by a link to a copy": _replaced_by_a_link,
    "replaced by a directory": _replaced_by_a_directory,
    "replaced by a FIFO": lambda tree: _replaced_by_a_fifo(tree, "a/x"),
    "deleted": lambda tree: _in(tree).unlink(),
    "its directory deleted": lambda tree: shutil.rmtree(_in(tree, "a")),
    "its directory replaced by a file": _directory_replaced_by_a_file,
    "its directory replaced by a link": _directory_replaced_by_a_link,
    "several": lambda tree: [*map(flip, (_in(tree, path) for path in FILES))],
    "agentd's own file": lambda tree: flip(_in(tree, "agentd.conf")),
    "the manifest replaced by a FIFO": lambda tree: _replaced_by_a_fifo(tree, "manifest.json"),
    "the manifest": lambda tree: flip(_in(tree, "manifest.json")),
    "a number in the manifest": lambda tree: _in(tree, "manifest.json").write_bytes(
        _in(tree, "manifest.json").read_bytes().replace(b'"parent": 1', b'"parent": 7')
    ),
    "another's manifest": lambda tree: shutil.copy(
        tree.path / "generations" / "000001" / "manifest.json", _in(tree, "manifest.json")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_healed(tree: Tree, damage: str) -> None:
    """By the process that wrote it; whatever shares the file is healed with it."""
    before = {row.number: content(row.directory) for row in generations(tree)}
    DAMAGES[damage](tree)
    assert not tree.intact()
    assert tree.damage()

    with capture_logs() as logs:
        assert tree.restore() == 2

    assert [line["event"] for line in logs] == ["tree.restored"]
    assert tree.intact()
    assert tree.mended
    assert {row.number: content(row.directory) for row in generations(tree)} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_by_a_new_process(tree: Tree, damage: str) -> None:
    """A start knows nothing of what was written before, and reads it all once."""
    DAMAGES[damage](tree)
    started = new_tree(tree.path.parent)
    started.recover()

    assert not started.intact()
    assert started.restore() == 2
    assert live(started) == FILES


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_built_on_damage(tree: Tree, damage: str) -> None:
    """A commit heals first; that nginx must be told is remembered, even if nothing changed otherwise."""
    stage = tree.stage("two")
    stage.write("b", b"three")
    DAMAGES[damage](tree)

    assert tree.commit(stage, extra={}, prepare=unprepared) is None

    assert live(tree) == FILES
    assert tree.mended


def test_that_nginx_was_told_is_remembered_too(tree: Tree) -> None:
    """Until something else is healed."""
    flip(_in(tree))
    tree.restore()
    assert new_tree(tree.path.parent).mended

    with tree.locked():
        tree.told_mended()
    assert not new_tree(tree.path.parent).mended


def test_what_nginx_made_of_a_damaged_file_goes_with_it(tree: Tree) -> None:
    """Its FILE.bin is newer than the healed file, and would be trusted."""
    _in(tree, "a/x.bin").write_bytes(b"of something else")
    flip(_in(tree))

    tree.restore()

    assert not _in(tree, "a/x.bin").exists()


def test_the_copy_shares_no_file_with_the_tree(tree: Tree) -> None:
    """Neither after commits nor after healing."""

    def inodes(directory: Path) -> set[int]:
        return {path.stat().st_ino for path in directory.rglob("*") if path.is_file()}

    mirror = tree.path.parent / "mirror"
    assert not inodes(mirror) & inodes(tree.path)
    flip(_in(tree))
    tree.restore()
    assert not inodes(mirror) & inodes(tree.path)


def test_a_copy_that_shares_files_is_made_anew(tree: Tree) -> None:
    """Earlier versions made it by hard links."""
    copy = tree.path.parent / "mirror" / "000002" / "a" / "x"
    copy.unlink()
    os.link(_in(tree), copy)

    new_tree(tree.path.parent).recover()

    assert copy.stat().st_ino != _in(tree).stat().st_ino


def test_a_damaged_copy_is_made_anew(tree: Tree) -> None:
    """At the start and after each commit, as long as the tree is sound."""
    copy = tree.path.parent / "mirror" / "000002" / "a" / "x"
    flip(copy)

    tree.tidy()

    assert copy.read_bytes() == b"one one"


def test_unchanged_files_are_copied_once(tree: Tree) -> None:
    """The next copy shares them with the one before."""
    copy = tree.path.parent / "mirror" / "000002" / "a" / "x"
    inode = copy.stat().st_ino

    commit(tree, "two", {"b": b"3"})

    assert (tree.path.parent / "mirror" / "000003" / "a" / "x").stat().st_ino == inode


def test_a_file_is_not_read_again_while_nothing_touches_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even after commits that share it."""
    tree.intact()
    commit(tree, "two", {"b": b"3"})
    tree.intact()
    read: list[str] = []

    def holds(name: str, _entry: FileEntry) -> bool:
        read.append(name)
        return True

    monkeypatch.setattr("agentd.tree.seals._holds", holds)

    for _ in range(3):
        assert tree.intact()
        tree.stage("one")
    assert read == []

    commit(tree, "two", {"b": b"4"})
    tree.intact()
    assert {Path(name).name for name in read} <= {"b", "agentd.conf"}


def test_what_lstat_does_not_show_is_found_by_reading(tree: Tree) -> None:
    """A little at a time, so that the daemon goes on meanwhile."""
    big = bytes(5 * disk.CHUNK)
    commit(tree, "one", {"a/x": big})
    tree.intact()
    path = tree.path / "current" / "a" / "x"
    with path.open("r+b") as file:
        file.seek(4 * disk.CHUNK)
        file.write(b"!")
    found = path.stat()
    known = tree._seals._known
    look, digest = known[found.st_dev, found.st_ino]
    known[found.st_dev, found.st_ino] = ((*look[:3], found.st_mtime_ns, found.st_ctime_ns), digest)
    assert tree.intact()

    steps = 0
    while tree.intact() and steps < 40:
        steps += 1
        tree.read_some(disk.CHUNK)

    assert 5 <= steps < 20
    tree.restore()
    assert path.read_bytes() == big


def test_a_roll_back_leads_away_from_damage(tmp_path: Path) -> None:
    """With no copy to heal from, a sound generation can be made current."""
    tree = new_tree(tmp_path, mirror=None)
    commit(tree, "one", {"a": b"1"})
    commit(tree, "one", {"a": b"2"})
    flip(tree.path / "current" / "a")

    with pytest.raises(TreeError):
        tree.stage("one")
    tree.roll_back(1, prepare=unprepared)

    assert live(tree) == {"a": (b"1", 0o644)}


def test_a_roll_back_to_damage_is_refused(tmp_path: Path) -> None:
    """It says which file, and what to do."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a": b"1"})
    commit(tree, "one", {"a": b"2"})
    flip(tree.path / "generations" / "000001" / "a")

    with pytest.raises(TreeError, match=r"generation 1 is damaged \(a\).*choose another"):
        tree.roll_back(1, prepare=unprepared)

    assert tree.current == 2


def test_a_roll_back_heals_what_it_can(tree: Tree) -> None:
    """The file that both share has a sound copy in the mirror."""
    flip(_in(tree))

    tree.roll_back(1, prepare=unprepared)

    assert live(tree) == {path: FILES[path] for path in ("a/x", "a/y")}


def test_damage_in_tree_and_copy_is_an_error(tree: Tree) -> None:
    """Wrong content is never taken for right."""
    flip(_in(tree, "b"))
    flip(tree.path.parent / "mirror" / "000002" / "b")

    with pytest.raises(TreeError, match="damaged"):
        tree.restore()
    assert not tree.intact()


def test_what_another_user_may_not_read_is_not_damaged(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks at root's tree is refused, and is not told that it needs a repair."""
    manifest = tree.path / "generations" / "000002" / "manifest.json"

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(manifest))

    monkeypatch.setattr("agentd.tree.generation.Generation.open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: tree.path.stat().st_uid + 1000)
    with pytest.raises(TreeError, match=f"^{manifest}: Permission denied$"):
        new_tree(tmp_path).damage()

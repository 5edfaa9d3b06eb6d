"""The exchange of `dest`: whole or not at all, undone unless confirmed, and killed at any line of it."""

from __future__ import annotations

import errno
import os
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.deploy import swap as module
from handlers.deploy.swap import BusyError, Swap, empty, exchange, left_behind, recover
from tests.servers.equipment import require_root
from tests.unit.handlers.deploy.deploying import contents, place_of

MANY, OTHER = 5000, 65534
OLD, NEW = {"file": b"old"}, {"file": b"new"}


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """A `dest` that is there."""
    return fill(tmp_path / "app", b"old")


def fill(directory: Path, content: bytes) -> Path:
    """Make a directory with one file."""
    directory.mkdir()
    (directory / "file").write_bytes(content)
    return directory


def put(swap: Swap) -> str:
    """Prepare the new directory; returns its name."""
    return fill(swap.path / "tree", b"new").name


def beside(dest: Path) -> list[str]:
    """What lies beside `dest`."""
    return sorted(path.name for path in dest.parent.iterdir() if path != dest)


def deploy(dest: Path) -> None:
    """What a deploy does with its swap directory."""
    with place_of(dest) as place, Swap(place) as swap:
        swap.flip(put(swap))
        swap.confirm()


def no_exchange(one: int, name: str, other: int, other_name: str) -> None:  # noqa: ARG001 (as `exchange` has it)
    """A filesystem that cannot exchange."""
    raise OSError(errno.EINVAL, "Invalid argument", name, None, other_name)


def test_a_confirmed_flip_stands(dest: Path) -> None:
    """And nothing is left beside it."""
    deploy(dest)

    assert contents(dest) == NEW
    assert beside(dest) == []


def test_a_flip_that_is_not_confirmed_is_undone(dest: Path) -> None:
    """Down to the inode."""
    inode = dest.stat().st_ino

    with place_of(dest) as place, Swap(place) as swap:
        swap.flip(put(swap))
        flipped = contents(dest)

    assert flipped == NEW
    assert (contents(dest), dest.stat().st_ino) == (OLD, inode)
    assert beside(dest) == []


def test_an_error_undoes_the_flip(dest: Path) -> None:
    """It is passed on."""

    def fail() -> None:
        with place_of(dest) as place, Swap(place) as swap:
            swap.flip(put(swap))
            raise ValueError("post")

    with pytest.raises(ValueError, match="post"):
        fail()

    assert contents(dest) == OLD


def test_a_first_flip_is_undone_to_nothing(tmp_path: Path) -> None:
    """There was no `dest`."""
    dest = tmp_path / "app"

    with place_of(dest) as place, Swap(place) as swap:
        swap.flip(put(swap))

    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_exchange_two_renames_do(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forth, and back again."""
    monkeypatch.setattr(module, "exchange", no_exchange)

    with place_of(dest) as place, Swap(place) as swap:
        swap.flip(put(swap))
        flipped = contents(dest)
    undone = contents(dest)
    deploy(dest)

    assert (flipped, undone, contents(dest)) == (NEW, OLD, NEW)
    assert beside(dest) == []


def test_a_flip_that_cannot_be_leaves_dest(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not the want of an exchange."""

    def denied(one: int, name: str, other: int, other_name: str) -> None:  # noqa: ARG001 (as `exchange` has it)
        raise PermissionError(errno.EACCES, "Permission denied", name, None, other_name)

    monkeypatch.setattr(module, "exchange", denied)

    with pytest.raises(PermissionError):
        deploy(dest)

    assert contents(dest) == OLD
    assert beside(dest) == []


def test_an_exchange_is_one_step(tmp_path: Path) -> None:
    """Each is the other afterwards, and if one is missing nothing happens."""
    one, other = fill(tmp_path / "one", b"1"), fill(tmp_path / "other", b"2")

    here = os.open(tmp_path, os.O_RDONLY)

    exchange(here, "one", here, "other")

    assert (contents(one), contents(other)) == ({"file": b"2"}, {"file": b"1"})
    with pytest.raises(FileNotFoundError):
        exchange(here, "one", here, "none")
    os.close(here)
    assert contents(one) == {"file": b"2"}


def test_only_one_works_on_a_dest(dest: Path) -> None:
    """The other is told, and disturbs nothing."""
    with place_of(dest) as place, Swap(place) as swap:
        fill(swap.path / "tree", b"new")
        with pytest.raises(BusyError), Swap(place):
            pass
        with pytest.raises(BusyError):
            recover(place)
        assert contents(swap.path / "tree") == NEW


def test_others_are_not_trusted_with_it(dest: Path) -> None:
    """A swap directory that somebody else may write to is not used."""
    made = dest.with_name(".agentd-app")
    made.mkdir()
    made.chmod(0o777)

    with pytest.raises(PermissionError, match="was not made by agentd"):
        deploy(dest)

    made.rmdir()
    made.symlink_to(dest)
    with pytest.raises(PermissionError, match=r"was not made by agentd.*\.agentd-app"):
        deploy(dest)
    assert contents(dest) == OLD


def test_it_is_private(dest: Path) -> None:
    """What is made ready is nobody's business yet."""
    with place_of(dest) as place, Swap(place) as swap:
        assert stat.S_IMODE(swap.path.stat().st_mode) == 0o700


def test_what_agentd_did_not_make_is_not_emptied(dest: Path) -> None:
    """A private directory of root's that somebody has renamed to where agentd works."""
    precious = dest.with_name(".agentd-app")
    fill(precious, b"precious")
    precious.chmod(0o700)

    with pytest.raises(PermissionError, match="was not made by agentd"):
        deploy(dest)

    assert contents(precious) == {"file": b"precious"}


@pytest.mark.parametrize("record", ["", "\0\0", "{", "[]", "null", '{"old": 1}'])
def test_a_damaged_record_is_said_to_be_one(dest: Path, record: str) -> None:
    """Which of the two directories is in place cannot be known; nothing is touched."""
    made = dest.with_name(".agentd-app")
    made.mkdir(mode=0o700)
    fill(made / "tree", b"new")
    (made / "flip").write_text(record)

    with pytest.raises(OSError, match=r"damaged record.*remove it.*\.agentd-app"):
        deploy(dest)

    assert contents(dest) == OLD
    assert contents(made / "tree") == NEW


def test_what_cannot_be_removed_is_named(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as an immutable file of the directory before: without it the next deploy can go on."""

    def immutable(top: int) -> None:  # noqa: ARG001 (as `empty` has it)
        raise PermissionError(errno.EPERM, "Operation not permitted", "im")

    monkeypatch.setattr(module, "empty", immutable)

    with pytest.raises(
        PermissionError, match=r"im: Operation not permitted\); mend that, or move it away.*\.agentd-app"
    ):
        deploy(dest)


def test_directories_that_nobody_may_write_are_removed(dest: Path) -> None:
    """An archive may hold such; they must not be there for ever."""
    with place_of(dest) as place, Swap(place) as swap:
        sealed = fill(swap.path / "tree", b"new") / "sealed"
        fill(sealed, b"x")
        sealed.chmod(0o500)

    assert beside(dest) == []


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_without_root_as_well(tmp_path: Path, mode: int) -> None:
    """They are agentd's own; root may enter and move any."""
    require_root("be another user")
    top = os.open(tmp_path, os.O_RDONLY)
    for path in (tmp_path / "tree", tmp_path / "tree" / "a", tmp_path / "tree" / "a" / "b"):
        fill(path, b"x")
    for path in (*tmp_path.rglob("*"), tmp_path):
        os.chown(path, OTHER, OTHER)
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.chmod(mode)
    os.seteuid(OTHER)
    try:
        empty(top)
    finally:
        os.seteuid(0)
        os.close(top)

    assert list(tmp_path.iterdir()) == []


def test_a_deep_tree_is_removed(dest: Path) -> None:
    """Deeper than a path may be long: whoever owns a directory can make it so."""
    with place_of(dest) as place, Swap(place) as swap:
        at = os.open(swap.path, os.O_RDONLY)
        for name in ("tree", *["d" * 50] * 3000):
            os.mkdir(name, dir_fd=at)
            inner = os.open(name, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = inner
        os.close(at)

    assert beside(dest) == []


def peak(work: Callable[[], object]) -> int:
    """Bytes of memory that it takes at most."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("kind", ["files", "directories"])
def test_what_a_large_directory_takes_does_not_grow_with_it(tmp_path: Path, kind: str) -> None:
    """An application may have put millions of files into `dest`."""
    large = tmp_path / "large"
    large.mkdir()
    for number in range(MANY):
        path = large / f"session-{number:040d}"
        (path.touch if kind == "files" else path.mkdir)()
    top = os.open(tmp_path, os.O_RDONLY)

    took = peak(lambda: empty(top))

    os.close(top)
    assert list(tmp_path.iterdir()) == []
    assert took < MANY * 50


def test_nothing_is_removed_through_a_link(dest: Path, tmp_path: Path) -> None:
    """The link is."""
    outside = fill(tmp_path / "outside", b"precious")

    with place_of(dest) as place, Swap(place) as swap:
        fill(swap.path / "tree", b"new")
        (swap.path / "tree" / "link").symlink_to(outside)

    assert beside(dest) == ["outside"]
    assert contents(outside) == {"file": b"precious"}


def test_what_was_left_behind_is_found(tmp_path: Path) -> None:
    """By its name."""
    (tmp_path / ".agentd-b").mkdir(mode=0o700)
    (tmp_path / ".agentd-a").mkdir(mode=0o700)
    (tmp_path / "other").mkdir()

    with place_of(tmp_path / "a") as place, place.beside("other") as other:
        assert left_behind(place) == ["a", "b"]
        assert recover(place) is False
        assert recover(other) is False
    assert not (tmp_path / ".agentd-a").exists()

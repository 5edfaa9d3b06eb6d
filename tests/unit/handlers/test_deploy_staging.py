"""The exchange of `dest`: whole or not at all, undone unless confirmed, and killed at any line of it."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from handlers.deploy import staging as module
from handlers.deploy.exchange import exchange
from handlers.deploy.staging import BusyError, Staging, left_behind, recover
from tests.unit.handlers.deploying import contents

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


def beside(dest: Path) -> list[str]:
    """What lies beside `dest`."""
    return sorted(path.name for path in dest.parent.iterdir() if path != dest)


def deploy(dest: Path) -> None:
    """What a deploy does with its staging directory."""
    with Staging(dest) as staging:
        staging.flip(fill(staging.path / "tree", b"new"))
        staging.confirm()


def no_exchange(one: Path, other: Path) -> None:
    """A filesystem that cannot exchange."""
    raise OSError(errno.EINVAL, "Invalid argument", str(one), None, str(other))


def test_a_confirmed_flip_stands(dest: Path) -> None:
    """And nothing is left beside it."""
    deploy(dest)

    assert contents(dest) == NEW
    assert beside(dest) == []


def test_a_flip_that_is_not_confirmed_is_undone(dest: Path) -> None:
    """Down to the inode."""
    inode = dest.stat().st_ino

    with Staging(dest) as staging:
        staging.flip(fill(staging.path / "tree", b"new"))
        flipped = contents(dest)

    assert flipped == NEW
    assert (contents(dest), dest.stat().st_ino) == (OLD, inode)
    assert beside(dest) == []


def test_an_error_undoes_the_flip(dest: Path) -> None:
    """It is passed on."""

    def fail() -> None:
        with Staging(dest) as staging:
            staging.flip(fill(staging.path / "tree", b"new"))
            raise ValueError("post")

    with pytest.raises(ValueError, match="post"):
        fail()

    assert contents(dest) == OLD


def test_a_first_flip_is_undone_to_nothing(tmp_path: Path) -> None:
    """There was no `dest`."""
    dest = tmp_path / "app"

    with Staging(dest) as staging:
        staging.flip(fill(staging.path / "tree", b"new"))

    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_exchange_two_renames_do(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forth, and back again."""
    monkeypatch.setattr(module, "exchange", no_exchange)

    with Staging(dest) as staging:
        staging.flip(fill(staging.path / "tree", b"new"))
        flipped = contents(dest)
    undone = contents(dest)
    deploy(dest)

    assert (flipped, undone, contents(dest)) == (NEW, OLD, NEW)
    assert beside(dest) == []


def test_a_flip_that_cannot_be_leaves_dest(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not the want of an exchange."""

    def denied(one: Path, other: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(one), None, str(other))

    monkeypatch.setattr(module, "exchange", denied)

    with pytest.raises(PermissionError):
        deploy(dest)

    assert contents(dest) == OLD
    assert beside(dest) == []


def test_an_exchange_is_one_step(tmp_path: Path) -> None:
    """Each is the other afterwards, and if one is missing nothing happens."""
    one, other = fill(tmp_path / "one", b"1"), fill(tmp_path / "other", b"2")

    exchange(one, other)

    assert (contents(one), contents(other)) == ({"file": b"2"}, {"file": b"1"})
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "none")
    assert contents(one) == {"file": b"2"}


def test_only_one_works_on_a_dest(dest: Path) -> None:
    """The other is told, and disturbs nothing."""
    with Staging(dest) as staging:
        fill(staging.path / "tree", b"new")
        with pytest.raises(BusyError), Staging(dest):
            pass
        with pytest.raises(BusyError):
            recover(dest)
        assert contents(staging.path / "tree") == NEW


def test_others_are_not_trusted_with_it(dest: Path) -> None:
    """A staging directory that somebody else may write to is not used."""
    made = dest.with_name(".agentd-app")
    made.mkdir()
    made.chmod(0o777)

    with pytest.raises(PermissionError, match="not agentd's own"):
        deploy(dest)

    made.rmdir()
    made.symlink_to(dest)
    with pytest.raises(OSError, match="app"):
        deploy(dest)
    assert contents(dest) == OLD


def test_it_is_private(dest: Path) -> None:
    """What is made ready is nobody's business yet."""
    with Staging(dest) as staging:
        assert stat.S_IMODE(staging.path.stat().st_mode) == 0o700


def test_directories_that_nobody_may_write_are_removed(dest: Path) -> None:
    """An archive may hold such; they must not be there for ever."""
    with Staging(dest) as staging:
        sealed = fill(staging.path / "tree", b"new") / "sealed"
        fill(sealed, b"x")
        sealed.chmod(0o500)
        module._make_writable(staging.path / "tree")
        mode = stat.S_IMODE(sealed.stat().st_mode)

    assert mode == 0o700
    assert beside(dest) == []


def test_what_was_left_behind_is_found(tmp_path: Path) -> None:
    """In each of the directories that there are."""
    (tmp_path / ".agentd-b").mkdir()
    (tmp_path / ".agentd-a").mkdir()
    (tmp_path / "other").mkdir()

    assert left_behind([tmp_path, tmp_path / "none"]) == [tmp_path / "a", tmp_path / "b"]
    assert recover(tmp_path / "a") is False
    assert recover(tmp_path / "other") is False
    assert not (tmp_path / ".agentd-a").exists()

"""The directory beside `dest` in which a deploy is made ready, and the exchange that puts it in place.

    PARENT/.agentd-NAME/          0700, locked (flock) by whoever works on PARENT/NAME
        tree, carried             what is being made
        flip                      there from just before the exchange until the deploy is confirmed

`flip` holds the inode numbers of the old and the new tree. As long as it is there the deploy is not
confirmed, and whichever process finds it next puts the old tree back: which of the two `dest` is, its inode
number tells. So a kill at any instruction leaves either the old tree, or the new one to be undone by
`recover`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from handlers.deploy.exchange import UNSUPPORTED, exchange

PREFIX: Final = ".agentd-"
_RECORD: Final = "flip"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BusyError(OSError):
    """Another deploy works on the same `dest`."""


class Staging:
    """The staging directory of one `dest`, held from `with` to its end, and gone after it.

    Args:
        dest: an absolute path without symbolic links whose parent exists.

    Attributes:
        path: where things are made ready.
        recovered: entering put back what an earlier deploy, which never ended, had replaced.

    Raises:
        BusyError: on entering, another deploy works on this `dest`.
        OSError: the directory cannot be made, read or written.
    """

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.path = dest.with_name(PREFIX + dest.name)
        self.recovered = False
        self._descriptor = -1

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._descriptor = os.open(self.path, _DIRECTORY)
        try:
            self._lock()
            self.recovered = self.undo()
            self._empty()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.undo()
            with suppress(OSError):  # what is left is no longer needed, and goes with the next deploy
                self._empty()
                self.path.rmdir()
        finally:
            os.close(self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another deploy works on {self.dest}") from error
        here, own = os.fstat(self._descriptor), _inode(self.path)
        if own != here.st_ino:  # whoever held it before has just removed it
            raise BusyError(f"another deploy worked on {self.dest} a moment ago")
        if here.st_uid != os.geteuid() or here.st_mode & 0o022:
            raise PermissionError(f"{self.path} is not agentd's own; remove it")

    def _empty(self) -> None:
        for path in list(self.path.iterdir()):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
                continue
            if os.geteuid():  # root may empty a directory that is not writable; nobody else may
                _make_writable(path)
            shutil.rmtree(path)

    # ------------------------------------------------------------------ the exchange

    def flip(self, new: Path) -> None:
        """Make `new`, which lies in `path`, the `dest`; until `confirm` it can be undone.

        Raises:
            OSError: `dest` is what it was.
        """
        old = _inode(self.dest)
        self._record({"old": old, "new": _inode(new)})
        if old is None:
            new.rename(self.dest)
        else:
            self._swap(new)
        self._sync()

    def undo(self) -> bool:
        """Make `dest` what it was before a flip that was not confirmed. Returns whether there was one.

        Raises:
            OSError: it cannot be; `flip` stays for the next attempt.
        """
        record = self._read()
        if record is None:
            return False
        here, old = _inode(self.dest), self._find(record.get("old"))
        flipped = here is not None and here == record.get("new")
        if flipped and record.get("old") is None:
            self.dest.rename(self.path / "undone")
        elif flipped and old is not None:
            self._swap(old)
        elif here is None and old is not None:
            old.rename(self.dest)
        self._sync()
        self.confirm()
        return flipped

    def confirm(self) -> None:
        """The flip stands: forget how to undo it."""
        (self.path / _RECORD).unlink(missing_ok=True)
        self._sync()

    def _swap(self, other: Path) -> None:
        """Exchange `dest` with a tree in `path`: in one step, or where the filesystem knows none, in two."""
        try:
            exchange(other, self.dest)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self.dest.rename(self.path / f"aside-{_inode(self.dest)}")
            other.rename(self.dest)

    def _find(self, inode: int | None) -> Path | None:
        """What in `path` has this inode number."""
        return next((path for path in self.path.iterdir() if inode and _inode(path) == inode), None)

    # ------------------------------------------------------------------ the record

    def _record(self, record: dict[str, int | None]) -> None:
        unfinished = self.path / "flip.new"
        with unfinished.open("x") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.path / _RECORD)
        os.fsync(self._descriptor)

    def _read(self) -> dict[str, int | None] | None:
        try:
            found: dict[str, int | None] = json.loads((self.path / _RECORD).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def _sync(self) -> None:
        parent = os.open(self.path.parent, _DIRECTORY)
        try:
            os.fsync(self._descriptor)
            os.fsync(parent)
        finally:
            os.close(parent)


def recover(dest: Path) -> bool:
    """Undo what a deploy to `dest` left behind when it was killed. Returns whether there was anything.

    Raises:
        BusyError: it is still at work.
        OSError: it cannot be undone.
    """
    if not dest.with_name(PREFIX + dest.name).is_dir():
        return False
    with Staging(dest) as staging:
        return staging.recovered


def left_behind(parents: Iterable[Path]) -> list[Path]:
    """The `dest` of every staging directory in these directories."""
    found: set[Path] = set()
    for parent in parents:
        if parent.is_dir():
            found.update(parent / path.name.removeprefix(PREFIX) for path in parent.glob(f"{PREFIX}*"))
    return sorted(found)


def _make_writable(directory: Path) -> None:
    directory.chmod(0o700)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            _make_writable(path)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None

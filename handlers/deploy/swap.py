"""Swaps `dest` for a new directory that was prepared beside it, in one step that can be undone.

    PARENT/.agentd-NAME/          0700, locked (flock) by the process that deploys PARENT/NAME
        tree, carried             the new directory in the making
        flip                      exists from just before the swap until the deploy is confirmed

`flip` holds the inode numbers of the old and the new directory. As long as it exists the deploy is not
confirmed, and the next process to find it puts the old directory back: the inode number of `dest` tells which
of the two is in place. So a kill at any instruction leaves either the old directory, or the new one for
`recover` to undo.

All of it is done relative to two descriptors, that of PARENT and that of the directory in it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from handlers.deploy.place import DIRECTORY, Place, names

PREFIX: Final = ".agentd-"
_RECORD: Final = "flip"
_RENAME_EXCHANGE: Final = 2
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a filesystem answers that cannot exchange two names (NFS, for one)."""
_NOT_OURS: Final = "was not made by agentd; move it away"
_MODE: Final = 0o700
_OURS: Final = re.compile(r"tree|carried|nothing|flip|flip\.new|undone|(aside|removed)-[0-9a-f]{1,32}")
"""What a deploy makes in the directory."""


class BusyError(OSError):
    """Another deploy is working on the same `dest`."""


class Swap:
    """The directory beside one `dest`, locked while in use as a context manager, and removed after it.

    Args:
        place: where `dest` is or shall be.

    Attributes:
        path: where the new directory is prepared, for this process and those that it starts. It leads to the
            open directory, whatever bears its name meanwhile.
        recovered: an earlier deploy that never ended had replaced `dest`, and was undone on entering.

    Raises:
        BusyError: on entering, another deploy is working on this `dest`.
        OSError: the directory cannot be made, read or written.
    """

    def __init__(self, place: Place) -> None:
        self.path = Path()
        self.recovered = False
        self._place, self._name = place, PREFIX + place.name
        self._descriptor = -1

    def __enter__(self) -> Self:
        with suppress(FileExistsError):
            os.mkdir(self._name, _MODE, dir_fd=self._place.parent)
        try:
            self._descriptor = os.open(self._name, DIRECTORY, dir_fd=self._place.parent)
        except NotADirectoryError as error:
            raise self._error(errno.EPERM, _NOT_OURS) from error
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        try:
            self._lock()
            self.recovered = self.undo()
            self._clear()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.undo()
            with suppress(OSError):  # leftovers are no longer needed, and the next deploy removes them
                empty(self._descriptor)
                os.rmdir(self._name, dir_fd=self._place.parent)
        finally:
            os.close(self._descriptor)

    def _lock(self) -> None:
        dest = self._place.path
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another deploy is working on {dest}") from error
        here, own = os.fstat(self._descriptor), _inode(self._place.parent, self._name)
        if own != here.st_ino:  # its last holder has just removed it
            raise BusyError(f"another deploy was working on {dest} a moment ago")
        strange = [name for name in names(self._descriptor) if not _OURS.fullmatch(name)]
        if here.st_uid != os.geteuid() or stat.S_IMODE(here.st_mode) & 0o077 or strange:
            raise self._error(errno.EPERM, _NOT_OURS)

    def _clear(self) -> None:
        """Remove what an earlier deploy could not, or was killed before it did."""
        try:
            empty(self._descriptor)
        except OSError as error:
            why = f"cannot be emptied ({error.filename}: {error.strerror}); mend that, or move it away"
            raise self._error(error.errno or errno.EIO, why) from error

    def _error(self, number: int, why: str) -> OSError:
        """What is wrong with the directory."""
        return OSError(number, why, str(self._place.path.with_name(self._name)))

    # ------------------------------------------------------------------ the swap

    def flip(self, new: str) -> None:
        """Make `new`, a directory in `path`, the `dest`; until `confirm` that can be undone.

        Raises:
            OSError: `dest` is unchanged.
        """
        old = self._here()
        self._record({"old": old, "new": _inode(self._descriptor, new)})
        if old is None:
            self._put(new)
        else:
            self._swap(new)
        self._sync()

    def undo(self) -> bool:
        """Undo a flip that was not confirmed. Returns whether there was one.

        Raises:
            OSError: that failed; `flip` stays for the next attempt.
        """
        record = self._read()
        if record is None:
            return False
        here, old = self._here(), self._find(record.get("old"))
        flipped = here is not None and here == record.get("new")
        if flipped and record.get("old") is None:
            self._take("undone")
        elif flipped and old is not None:
            self._swap(old)
        elif here is None and old is not None:
            self._put(old)
        self._sync()
        self.confirm()
        return flipped

    def confirm(self) -> None:
        """Keep what was flipped: forget how to undo it."""
        with suppress(FileNotFoundError):
            os.unlink(_RECORD, dir_fd=self._descriptor)
        self._sync()

    def _here(self) -> int | None:
        return _inode(self._place.parent, self._place.name)

    def _put(self, name: str) -> None:
        """Move an entry of the directory to `dest`."""
        os.rename(name, self._place.name, src_dir_fd=self._descriptor, dst_dir_fd=self._place.parent)

    def _take(self, name: str) -> None:
        """Move `dest` into the directory."""
        os.rename(self._place.name, name, src_dir_fd=self._place.parent, dst_dir_fd=self._descriptor)

    def _swap(self, other: str) -> None:
        """Exchange `dest` with a directory in `path`: in one step, or in two if the filesystem cannot."""
        try:
            exchange(self._descriptor, other, self._place.parent, self._place.name)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._take(f"aside-{self._here()}")
            self._put(other)

    def _find(self, inode: int | None) -> str | None:
        """The entry of `path` with this inode number."""
        every = names(self._descriptor) if inode else ()
        return next((name for name in every if _inode(self._descriptor, name) == inode), None)

    # ------------------------------------------------------------------ the record

    def _record(self, record: dict[str, int | None]) -> None:
        unfinished = "flip.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(unfinished, flags, 0o600, dir_fd=self._descriptor), "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, _RECORD, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        os.fsync(self._descriptor)

    def _read(self) -> dict[str, int | None] | None:
        try:
            file = os.open(_RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        try:
            with os.fdopen(file, "rb") as opened:
                found = json.load(opened)
            return {"old": found["old"], "new": found["new"]}
        except (ValueError, LookupError, TypeError) as error:
            why = f"has a damaged record; see that {self._place.path} is as it should be, and remove it"
            raise self._error(errno.EIO, why) from error

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        os.fsync(self._place.parent)


def recover(place: Place) -> bool:
    """Undo what a killed deploy to `place` left behind. Returns whether there was anything.

    Raises:
        BusyError: the deploy is still running.
        OSError: it cannot be undone now.
    """
    if _inode(place.parent, PREFIX + place.name) is None:
        return False
    with Swap(place) as swap:
        return swap.recovered


def left_behind(place: Place) -> list[str]:
    """The names of the `dest` of each swap directory in the parent of `place`."""
    return sorted(
        name.removeprefix(PREFIX)
        for name in names(place.parent)
        if name.startswith(PREFIX) and name != PREFIX
    )


def exchange(one: int, name: str, other: int, other_name: str) -> None:
    """Exchange two entries of open directories in one step, with renameat2(2), which Python does not offer.

    Raises:
        OSError: neither has changed; `errno` is in `_UNSUPPORTED` if the filesystem cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(one, os.fsencode(name), other, os.fsencode(other_name), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name, None, other_name)


def empty(top: int) -> None:
    """Remove all that is in an open directory, without following a link, however deep it is and however much.

    A directory in a directory is moved up first, so that neither the stack nor the open files grow with the
    depth, and what is mounted somewhere is not entered: it cannot be moved. No list of names is kept: there
    may be millions.

    Raises:
        OSError: something cannot be removed.
    """
    left = True
    while left:
        left = False
        with os.scandir(top) as entries:
            for entry in entries:
                left = True
                if entry.is_dir(follow_symlinks=False):
                    _unseal(top, entry.name)
                    _dissolve(top, entry.name)
                else:
                    os.unlink(entry.name, dir_fd=top)


def _dissolve(top: int, name: str) -> None:
    """Remove a directory of `top`, and what is in it but for directories, which are moved up to `top`."""
    inner = os.open(name, DIRECTORY, dir_fd=top)
    try:
        private = _seize(inner)
        with os.scandir(inner) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if private:
                        _unseal(inner, entry.name)
                    moved = f"removed-{os.urandom(8).hex()}"
                    os.rename(entry.name, moved, src_dir_fd=inner, dst_dir_fd=top)
                else:
                    os.unlink(entry.name, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _seize(directory: int) -> bool:
    """See that nobody goes on making files in an open directory; whether that could be done."""
    try:
        os.fchown(directory, os.geteuid(), -1)
        os.fchmod(directory, _MODE)
    except PermissionError:  # somebody else's; only root can
        return False
    return True


def _unseal(directory: int, name: str) -> None:
    """Let a user who is not root into a directory of their own, and move it, whatever mode it has.

    In `directory` nobody else can put a link in its place.
    """
    if os.geteuid():
        with suppress(PermissionError):
            os.chmod(name, _MODE, dir_fd=directory)


def _inode(directory: int, name: str) -> int | None:
    try:
        return os.lstat(name, dir_fd=directory).st_ino
    except FileNotFoundError:
        return None

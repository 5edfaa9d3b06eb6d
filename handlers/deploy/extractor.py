"""Writes the members of an archive below one directory, and cannot write anywhere else.

Each component of a path is opened separately, relative to the one before, and never through a symbolic link,
whatever the archive has put there. Modes, owners and times of directories are set at the end, once nothing
is written into them any more.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tarfile
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from handlers.deploy.members import Parts, RefusedArchiveError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLIED: Final = 0o755
"""Mode of a directory that no member of the archive describes."""


class _Attributes(NamedTuple):
    """What a directory gets at the end."""

    mode: int
    owner: tuple[int, int]
    times: tuple[int, int]


class Extractor:
    """Writes below `root`, a descriptor that the caller closes.

    Args:
        keep_owner: give each member the owner that the archive names, as tar does for root.

    Attributes:
        links: path -> target of the symbolic links written so far.
    """

    def __init__(self, root: int, *, keep_owner: bool) -> None:
        self.links: dict[Parts, str] = {}
        self._root, self._keep_owner = root, keep_owner
        self._directories: dict[Parts, _Attributes | None] = {}
        self._at: Parts = ()
        self._descriptor = os.dup(root)

    def close(self) -> None:
        """Close the directory that is open."""
        os.close(self._descriptor)

    # ------------------------------------------------------------------ members

    def directory(self, path: Parts, info: tarfile.TarInfo) -> None:
        """Make a directory, or record the attributes of one that exists."""
        self._enter(path)
        self._directories[path] = _Attributes(info.mode & 0o3777, _owner(info), _times(info))

    def file(self, path: Parts, info: tarfile.TarInfo, fill: Callable[[int], None]) -> None:
        """Make a file, replacing one that an earlier member made; `fill` writes to its descriptor."""
        into = self._make_way(path)
        descriptor = os.open(path[-1], _NEW_FILE, 0o600, dir_fd=into)
        try:
            fill(descriptor)
            os.fchmod(descriptor, info.mode & 0o777)
            os.utime(descriptor, ns=_times(info))
            if self._keep_owner:  # last: without CAP_FOWNER nobody may change a file of another owner
                os.fchown(descriptor, *_owner(info))
        finally:
            os.close(descriptor)

    def symlink(self, path: Parts, info: tarfile.TarInfo) -> None:
        """Make a symbolic link; where it leads is checked once all are there."""
        into = self._make_way(path)
        os.symlink(info.linkname, path[-1], dir_fd=into)
        self.links[path] = info.linkname
        os.utime(path[-1], ns=_times(info), dir_fd=into, follow_symlinks=False)
        if self._keep_owner:
            os.chown(path[-1], *_owner(info), dir_fd=into, follow_symlinks=False)

    def hard_link(self, path: Parts, target: Parts) -> None:
        """Make a second name for a file or symbolic link that an earlier member made."""
        why = f"{'/'.join(path)!r:.200} is a hard link to {'/'.join(target)!r:.200}, which is no earlier file"
        if path == target or not target:
            raise RefusedArchiveError(why)
        into = os.dup(self._make_way(path))
        try:
            source = self._enter(target[:-1])
            if stat.S_ISDIR(os.lstat(target[-1], dir_fd=source).st_mode):
                raise RefusedArchiveError(why)
            os.link(target[-1], path[-1], src_dir_fd=source, dst_dir_fd=into, follow_symlinks=False)
        except FileNotFoundError as error:
            raise RefusedArchiveError(why) from error
        finally:
            os.close(into)
        if target in self.links:
            self.links[path] = self.links[target]

    def finish(self, mode: int) -> None:
        """Give the directories their attributes, innermost first, and the root this mode."""
        self._directories.setdefault((), None)
        for path in sorted(self._directories, key=len, reverse=True):
            wanted, descriptor = self._directories[path], self._enter(path)
            if wanted is None:
                os.fchmod(descriptor, _IMPLIED if path else mode)
                continue
            os.fchmod(descriptor, wanted.mode if path else mode)
            os.utime(descriptor, ns=wanted.times)
            if self._keep_owner:
                os.fchown(descriptor, *wanted.owner)

    # ------------------------------------------------------------------ directories

    def _make_way(self, path: Parts) -> int:
        """The directory of `path`, with no file of that name in it any more."""
        into = self._enter(path[:-1])
        try:
            os.unlink(path[-1], dir_fd=into)
        except FileNotFoundError:
            return into
        except IsADirectoryError as error:
            raise RefusedArchiveError(f"{'/'.join(path)!r:.200} exists already, as a directory") from error
        self.links.pop(path, None)
        return into

    def _enter(self, path: Parts) -> int:
        """The descriptor of a directory, which is made if missing; the next call closes it."""
        if path == self._at:
            return self._descriptor
        here = self._at if path[: len(self._at)] == self._at else ()
        at = os.dup(self._descriptor if here else self._root)
        for depth in range(len(here), len(path)):
            at = self._step(at, path[: depth + 1])
        os.close(self._descriptor)
        self._at, self._descriptor = path, at
        return at

    def _step(self, at: int, path: Parts) -> int:
        """Open the last component of `path` in the directory `at`, which is closed."""
        try:
            if path not in self._directories:
                os.mkdir(path[-1], 0o700, dir_fd=at)
                self._directories[path] = None
            return os.open(path[-1], _DIRECTORY, dir_fd=at)
        except (FileExistsError, NotADirectoryError) as error:
            raise RefusedArchiveError(
                f"{'/'.join(path)!r:.200} is used as a directory, but is a file or a link"
            ) from error
        finally:
            os.close(at)


def _times(info: tarfile.TarInfo) -> tuple[int, int]:
    time = int(info.mtime * 1_000_000_000)
    return time, time


def _owner(info: tarfile.TarInfo) -> tuple[int, int]:
    """The owner by name if this machine has the name, else by number, as tar does."""
    return _uid(info.uname, info.uid), _gid(info.gname, info.gid)


@lru_cache(256)
def _uid(name: str, number: int) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return number


@lru_cache(256)
def _gid(name: str, number: int) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return number

"""Where a deploy goes: the parent directory of `dest`, as a descriptor, and a name in it.

Between two looks at one path, whoever may write a directory on the way can put another in its place; then
root would empty and fill directories of their choice. So the way is walked once, component by component, and
only through directories that nobody but root, agentd's own user and `parent_owner` can write; of the links on
the way only root's are followed. From then on everything is done relative to the descriptor, and no path is
looked up again.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agentd.errors import PermanentError

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS: Final = 40
"""As many as the kernel follows (MAXSYMLINKS)."""
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
"""An access list that lets somebody write shows in the group's bits as well (acl(5))."""


class Place:
    """A name in a directory that is open.

    Attributes:
        parent: the descriptor of the directory, until `close`.
        name: the name; there need not be anything of that name.
        path: both as a path, for messages only.
    """

    def __init__(self, parent: int, path: Path) -> None:
        self.parent, self.path, self.name = parent, path, path.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory."""
        os.close(self.parent)

    def lstat(self) -> os.stat_result | None:
        """What is there, without following a link; None for nothing."""
        try:
            return os.lstat(self.name, dir_fd=self.parent)
        except FileNotFoundError:
            return None

    def beside(self, name: str) -> Place:
        """Another name in the same directory, to be closed separately."""
        return Place(os.dup(self.parent), self.path.with_name(name))


def open_place(target: str, trusted: frozenset[int], *, follow: bool) -> Place:
    """Go the way to `target`.

    Args:
        target: an absolute path.
        trusted: user ids that may write the directories on the way.
        follow: whether `target` itself may be a symbolic link; those on the way are followed.

    Raises:
        PermanentError: somebody else may write a directory on the way, or `target` is a link.
        FileNotFoundError: there is no parent directory.
        OSError: a directory on the way cannot be opened.
    """
    way = _Way(trusted)
    try:
        path = way.go(target, follow=follow)
        return Place(os.open(".", DIRECTORY, dir_fd=way.last), path)
    finally:
        way.close()


def names(directory: int) -> list[str]:
    """The names in an open directory."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


class _Way:
    """The directories from the root to where we are, each one open."""

    def __init__(self, trusted: frozenset[int]) -> None:
        self._trusted = trusted
        self._names: list[str] = [""]
        self._open = [os.open("/", _LOOK | os.O_DIRECTORY)]

    @property
    def last(self) -> int:
        """The descriptor of the innermost directory."""
        return self._open[-1]

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._open:
            os.close(descriptor)

    def go(self, target: str, *, follow: bool) -> Path:
        """Go to the parent of `target`; returns where `target` really is."""
        todo, links = _parts(target), 0
        while todo:
            name = todo.popleft()
            if name == "..":
                self._up()
                continue
            try:
                descriptor = os.open(name, _LOOK, dir_fd=self.last)
            except FileNotFoundError as error:
                self._check(None, last=not todo)
                if todo:
                    raise FileNotFoundError(error.errno, error.strerror, str(self._path(name))) from error
                return self._path(name)
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                self._enter(name, descriptor, found)
                continue
            with _closing(descriptor):
                if not stat.S_ISLNK(found.st_mode):
                    return self._file(name, last=not todo)
                links += 1
                if links > _MOST_LINKS:
                    raise PermanentError(f"{target} goes through more than {_MOST_LINKS} links; use fewer")
                if not (follow or todo):
                    raise PermanentError(
                        f"{target} is a link that leads elsewhere, and is not listed in the option `dests`"
                    )
                todo.extendleft(reversed(self._follow(name, descriptor, found)))
        if len(self._open) == 1:
            raise PermanentError(f"{target} is the root directory")
        path = self._path()
        self._up()
        self._check(None, last=True)
        return path

    def _follow(self, name: str, link: int, found: os.stat_result) -> deque[str]:
        """Where a link leads, from where we then are."""
        self._check(found, last=False)
        if found.st_uid not in (0, os.geteuid()):
            raise PermanentError(
                f"{self._path(name)} is a link owned by {_name(found.st_uid)}, who could point it at any"
                " directory; only root's links are followed"
            )
        lead = os.readlink("", dir_fd=link)
        if lead.startswith("/"):
            self._up(len(self._open))
        return _parts(lead)

    def _file(self, name: str, *, last: bool) -> Path:
        """Something that is neither directory nor link."""
        self._check(None, last=True)
        if not last:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._path(name)))
        return self._path(name)

    def _enter(self, name: str, descriptor: int, found: os.stat_result) -> None:
        try:
            self._check(found, last=False)
        except BaseException:
            os.close(descriptor)
            raise
        self._names.append(name)
        self._open.append(descriptor)

    def _up(self, levels: int = 1) -> None:
        for _ in range(min(levels, len(self._open) - 1)):
            os.close(self._open.pop())
            self._names.pop()

    def _path(self, *more: str) -> Path:
        return Path("/".join((*self._names, *more)) or "/")

    def _check(self, child: os.stat_result | None, *, last: bool) -> None:
        """Check who could put something else in the place of `child`, an entry of the innermost directory.

        In a sticky directory such as /tmp that is its owner alone. But new names can be made there by all, so
        it cannot be the parent (`last`).
        """
        found = os.fstat(self.last)
        sticky = found.st_mode & stat.S_ISVTX and not last and child is not None
        if found.st_uid not in self._trusted:
            who = f"its owner {_name(found.st_uid)}"
        elif not found.st_mode & _WRITABLE or (sticky and child and child.st_uid in self._trusted):
            return
        else:
            who = "everyone" if found.st_mode & stat.S_IWOTH else "its group"
        cure = (
            "`chmod go-w` it: besides root, only the user in the option `parent_owner` may write there"
            if found.st_uid in self._trusted
            else "make it root's (chown root, chmod go-w), or name its owner in the option `parent_owner`"
        )
        raise PermanentError(
            f"{self._path()} can be written by {who}, who could redirect a deploy to any directory; {cure}"
        )


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _parts(path: str) -> deque[str]:
    return deque(part for part in path.split("/") if part not in ("", "."))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

"""Which paths a generation may hold, one by one and side by side.

A path is named in nginx's configuration and may come from a payload, so it may only contain characters that
mean nothing to nginx (no white space, quote, `;`, `{`, `$`, `#`, `*`) and nothing to the file system. Hidden
names are not allowed because nginx's own globs skip them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from agentd.errors import PermanentError

MANIFEST: Final = "manifest.json"
RESERVED: Final = frozenset({MANIFEST, "agentd.conf"})
"""What agentd itself writes into every generation."""

_PART: Final = re.compile(r"[A-Za-z0-9_+=@,:~-][A-Za-z0-9._+=@,:~-]{0,199}")
_LONGEST: Final = 1000


def check_path(path: str, reserved: Collection[str] = RESERVED) -> str:
    """Return the path if a handler may use it.

    Raises:
        PermanentError: it leads out of the tree, is agentd's own, or nginx's configuration cannot name it.
    """
    parts = path.split("/")
    if len(path) > _LONGEST or not all(_PART.fullmatch(part) for part in parts):
        raise PermanentError(
            f"{path[:_LONGEST]!r} cannot be a file of the tree: use a relative path whose parts consist of"
            " ASCII letters, digits and ._+=@,:~- and do not begin with a dot"
        )
    if path in reserved or parts[0] in reserved:
        raise PermanentError(f"{path!r} is written by agentd itself: choose another name")
    return path


def check_mode(path: str, mode: int) -> int:
    """Return the mode if a file of the tree may have it.

    Raises:
        PermanentError: it has bits beyond 0777, or the owner could not read the file.
    """
    if mode & ~0o777 or not mode & 0o400:
        raise PermanentError(f"{path!r} cannot have mode {mode:#o}: use 0400 to 0777, readable by its owner")
    return mode


class Layout:
    """The files of one generation by path, none of which gets in the way of another.

    What a step costs depends on the depth of the path, not on the number of files.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """Begin with paths that are known to fit together."""
        self._files: set[str] = set()
        self._directories: Counter[str] = Counter()  # how many files are below each
        for path in paths:
            self._add(path)

    def admit(self, path: str) -> None:
        """Add a path, or do nothing if it is there.

        Raises:
            PermanentError: one path needs a directory where another is a file, or one is where nginx caches
                another.
        """
        if path in self._files:
            return
        for other in (*_above(path), *self._below(path)):
            if other in self._files:
                raise PermanentError(f"{path!r} and {other!r} cannot both be files of the tree")
        # nginx keeps its binary form of a large `geo` file with ranges in FILE.bin, which it writes in place.
        for source, cache in ((path.removesuffix(".bin"), path), (path, f"{path}.bin")):
            if source != cache and (source in self._files or cache in self._files):
                raise PermanentError(f"{cache!r} is where nginx caches {source!r}: choose another name")
        self._add(path)

    def discard(self, path: str) -> None:
        """Take a path away, or do nothing if it is not there."""
        if path in self._files:
            self._files.remove(path)
            self._directories.subtract(_above(path))

    def _add(self, path: str) -> None:
        self._files.add(path)
        self._directories.update(_above(path))

    def _below(self, path: str) -> Iterator[str]:
        """The files below a path, if it is a directory; to find them is slow, and they are then an error."""
        if self._directories[path] > 0:
            yield from sorted(file for file in self._files if file.startswith(f"{path}/"))


def check_together(paths: Iterable[str]) -> None:
    """Check that all these files can be in one generation.

    Raises:
        PermanentError: as for `Layout.admit`.
    """
    layout = Layout()
    for path in sorted(paths):
        layout.admit(path)


def _above(path: str) -> Iterator[str]:
    """The directories that a file needs, the nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path

"""Reads the headers of an archive, each of which is judged before tarfile believes it.

tarfile takes a damaged header for the end of the archive, calls itself once more for each extended header,
keeps what global ones say for ever, and reads as much as one claims to have. What a member may be is decided
by `members`.

Source: pax(1), "pax Extended Header"; GNU tar, "Storing Sparse Files"
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from handlers.deploy.members import RefusedArchiveError

LARGEST: Final = 1 << 20
"""Bytes that the headers of one member may have."""

_MOST_OF_ONE: Final = 100
"""Headers of one member: extended ones, and those for its name and link."""
_MOST_GLOBAL: Final = 64 * 1024
"""Bytes of all global headers together, which tarfile copies for each member."""
_LONGEST_NUMBER: Final = 512
_PAX: Final = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
_DIGITS: Final = re.compile(rb"[0-9]+")
_LENGTH: Final = re.compile(rb"([0-9]{1,7}) ")
_INTEGER: Final = re.compile(rb"[0-9]{1,19}")
_ID: Final = re.compile(rb"-?[0-9]{1,19}")
_TIME: Final = re.compile(rb"-?[0-9]{1,19}(?:\.[0-9]{0,40})?")
_MAP: Final = re.compile(rb"[0-9]{1,19}(?:,[0-9]{1,19})*")
_TEXT: Final = re.compile(rb"[^\0]*")
_VALUES: Final = {
    **dict.fromkeys((b"path", b"linkpath", b"GNU.sparse.name", b"uname", b"gname"), _TEXT),
    **dict.fromkeys((b"uid", b"gid"), _ID),
    **dict.fromkeys((b"mtime", b"atime", b"ctime"), _TIME),
    b"GNU.sparse.map": _MAP,
    **dict.fromkeys((b"size", *(b"GNU.sparse." + name for name in (
        b"size", b"realsize", b"offset", b"numbytes", b"numblocks", b"major", b"minor",
    ))), _INTEGER),
}  # fmt: skip
_OF_ONE: Final = frozenset({b"path", b"linkpath", b"size"})
"""Fields that cannot be the same for all members."""
_DAMAGES: Final[tuple[type[tarfile.TarError], ...]] = (
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined] # typeshed does not know these two
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined] # as above
)


class HeaderLimits:
    """Counts the headers of an archive, and what they take.

    Args:
        most: headers of every kind that it may have.
    """

    def __init__(self, most: int) -> None:
        self._most, self._count, self._depth = most, 0, 0
        self._bytes = self._global = 0

    def read(self, size: int) -> int:
        """Count a read for a header. Returns its size, if a header may ask for that much."""
        if not 0 <= size <= LARGEST:
            raise RefusedArchiveError(f"damaged archive: a header claims {size} bytes")
        self._bytes += size
        if self._bytes > LARGEST:
            raise RefusedArchiveError(f"the headers of one member have more than {LARGEST} bytes")
        return size

    @contextmanager
    def header(self) -> Iterator[None]:
        """Count a header; those that belong to it are read meanwhile."""
        if not self._depth:
            self._bytes = 0
        self._depth += 1
        self._count += 1
        if self._depth > _MOST_OF_ONE:
            raise RefusedArchiveError(f"more than {_MOST_OF_ONE} headers for one member")
        if self._count > self._most:
            raise RefusedArchiveError(
                f"more than {self._most} members, extended headers included (max_entries)"
            )
        try:
            yield
        finally:
            self._depth -= 1

    def keep(self, size: int) -> None:
        """Count a global header."""
        self._global += size
        if self._global > _MOST_GLOBAL:
            raise RefusedArchiveError(f"its global headers have more than {_MOST_GLOBAL} bytes")


class StrictHeader(tarfile.TarInfo):
    """A header that raises if it is damaged, or too many; the archive's `fileobj` has `limits` and `peek`."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> StrictHeader:
        """Read the next header.

        Raises:
            RefusedArchiveError: it is damaged or cut off.
        """
        try:
            return super().fromtarfile(tarfile_)
        except _DAMAGES as error:
            raise RefusedArchiveError(
                f"not a tar archive, or damaged at byte {tarfile_.offset}: {error}"
            ) from error

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        source: Any = tarfile_.fileobj
        with source.limits.header():
            if self.type in _PAX:
                size = -(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                everyone = self.type == tarfile.XGLTYPE
                check_pax(source.peek(size)[: max(0, self.size)], everyone=everyone)
                if everyone:
                    source.limits.keep(size)
            found: tarfile.TarInfo = super()._proc_member(tarfile_)  # type: ignore[misc] # typeshed does not know it
            return found


def check_pax(data: bytes, *, everyone: bool = False) -> None:
    """Check the records of an extended header, each "LENGTH KEY=VALUE" and a line feed.

    Args:
        data: the header's contents.
        everyone: whether it is for all members that follow.

    Raises:
        RefusedArchiveError: it is damaged, or says what it may not.
    """
    if any(len(run) > _LONGEST_NUMBER for run in _DIGITS.findall(data)):
        raise RefusedArchiveError("damaged archive: an extended header with an endless number")
    at = 0
    while at < len(data) and data[at]:
        found = _LENGTH.match(data, at)
        end = at + int(found[1]) if found else 0
        if found is None or end <= found.end() or end > len(data) or data[end - 1 : end] != b"\n":
            raise RefusedArchiveError("damaged archive: an extended header without its own length")
        key, equals, value = data[found.end() : end - 1].partition(b"=")
        known = _VALUES.get(key)
        if not key or not equals or (known is not None and not known.fullmatch(value)):
            raise RefusedArchiveError(
                f"damaged archive: an extended header with a {key!r:.100} that cannot be"
            )
        if everyone and (key in _OF_ONE or key.startswith(b"GNU.sparse.")):
            raise RefusedArchiveError(f"a global header gives all members the same {key!r:.100}")
        at = end

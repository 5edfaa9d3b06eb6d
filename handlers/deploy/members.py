"""What an archive may hold: names that stay inside, files, directories and links, within the limits.

It decides by one header alone and touches no disk. Where symbolic links lead is for `links` to say, since
that takes all of them together.
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

Parts: TypeAlias = tuple[str, ...]
"""A path below the root of an archive, component by component; () is the root itself."""

LONGEST_NAME: Final = 2048
DEEPEST: Final = 100
_SETID: Final = 0o6000
_LAST_SECOND: Final = 2**33
_LAST_ID: Final = 2**32 - 1
_KNOWN: Final = frozenset(
    {*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE} - {tarfile.CONTTYPE}
)

_DAMAGES: Final[tuple[type[tarfile.TarError], ...]] = (
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined] # typeshed does not know these two
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined] # as above
)


class RefusedArchiveError(Exception):
    """The archive must not be unpacked; the text says which member, and why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may come out of one archive: bytes, both as a tar stream and as files, and members."""

    size: int
    entries: int


class StrictHeader(tarfile.TarInfo):
    """A header that, if damaged, is an error; tarfile would take it for the end of the archive."""

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
                f"no tar archive, or damaged at byte {tarfile_.offset}: {error}"
            ) from error


def members(archive: tarfile.TarFile, limits: Limits) -> Iterator[tuple[Parts, tarfile.TarInfo]]:
    """Yield each member with its path, in the archive's order.

    Raises:
        RefusedArchiveError: a member is one that no archive may hold, or there are too many or too large
        ones.
    """
    size = entries = 0
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # tarfile would keep a million of them in memory
        path = judge(info)
        entries, size = entries + 1, size + (info.size if info.isreg() else 0)
        if entries > limits.entries:
            raise RefusedArchiveError(f"more than {limits.entries} members (max_entries)")
        if size > limits.size:
            raise RefusedArchiveError(f"more than {limits.size} bytes once unpacked (max_unpacked)")
        yield path, info
    if not entries:
        raise RefusedArchiveError("it is empty, and would leave nothing of the destination")


def judge(info: tarfile.TarInfo) -> Parts:
    """Return the member's path.

    Raises:
        RefusedArchiveError: it may not be in an archive.
    """
    path = parts(info.name)
    if info.type not in _KNOWN:
        _refuse(
            info,
            f"is {_TYPES.get(info.type, 'of an unknown type')}; only files, directories and links may be",
        )
    if not path and not info.isdir():
        _refuse(info, "names the destination itself, and is no directory")
    if info.isreg() and (info.name.endswith("/") or info.size < 0):
        _refuse(info, "is a file with the name of a directory, or without a length")
    if info.isreg() and info.mode & _SETID:
        _refuse(info, "is set-uid or set-gid; take that away, and give it back in a `post` command")
    if not (math.isfinite(info.mtime) and abs(info.mtime) < _LAST_SECOND):
        _refuse(info, "has an impossible time")
    if not (0 <= info.uid < _LAST_ID and 0 <= info.gid < _LAST_ID):
        _refuse(info, "has an impossible owner")
    if info.islnk():
        parts(info.linkname)
    if info.issym() and (not info.linkname or "\0" in info.linkname):
        _refuse(info, "is a symbolic link to nowhere")
    return path


def parts(name: str) -> Parts:
    """Take a member's name apart.

    Raises:
        RefusedArchiveError: it is absolute, climbs with `..`, is too long, or has a NUL.
    """
    found = tuple(part for part in name.split("/") if part not in ("", "."))
    if not name or name.startswith("/"):
        raise RefusedArchiveError(
            f"{name!r:.200} is an absolute name, or none; make the archive with tar -C DIR ."
        )
    if ".." in found:
        raise RefusedArchiveError(f"{name!r:.200} climbs out with `..`")
    if "\0" in name or len(name) > LONGEST_NAME or len(found) > DEEPEST:
        limits = f"{LONGEST_NAME} characters, deeper than {DEEPEST} levels"
        raise RefusedArchiveError(f"{name!r:.200} is longer than {limits}, or has a NUL")
    return found


_TYPES: Final = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a fifo",
    tarfile.CONTTYPE: "a contiguous file",
}


def _refuse(info: tarfile.TarInfo, why: str) -> None:
    raise RefusedArchiveError(f"{info.name!r:.200} {why}")

"""What an archive may hold: files, directories and links whose names stay inside, within the limits.

It judges headers, and where symbolic links lead, without touching the disk.
"""

from __future__ import annotations

import math
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

Parts: TypeAlias = tuple[str, ...]
"""A path below the root of an archive, component by component; () is the root itself."""

LONGEST_NAME: Final = 2048
_LONGEST_PART: Final = 255
"""Bytes of one component (NAME_MAX)."""
_LONGEST_LINK: Final = 4095
"""Bytes of a symbolic link (PATH_MAX)."""
_MOST_KEPT: Final = 256 * 2**20
"""Bytes that the names of directories and links may take until the end, when they are checked and set."""
_PART_COST: Final = 64
DEEPEST: Final = 100
_MOST_HOPS: Final = 40
"""Links that the kernel follows in one path (MAXSYMLINKS) before it gives up."""
_SETID: Final = 0o6000
_LAST_SECOND: Final = 2**33
_LAST_ID: Final = 2**32 - 1
_KNOWN: Final = frozenset(
    {*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE} - {tarfile.CONTTYPE}
)


class RefusedArchiveError(Exception):
    """The archive must not be unpacked; the text says which member, and why."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The most that may come out of one archive.

    Attributes:
        size: bytes, as a tar stream and as files.
        entries: headers: one for each member, and the extended ones.
    """

    size: int
    entries: int


def members(archive: tarfile.TarFile, limits: ArchiveLimits) -> Iterator[tuple[Parts, tarfile.TarInfo]]:
    """Yield each member with its path, in the archive's order.

    Raises:
        RefusedArchiveError: an archive may not hold such a member, or they are too many or too large.
    """
    size = kept = entries = 0
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # tarfile would keep a million of them in memory
        path = check_member(info)
        entries, size = entries + 1, size + (info.size if info.isreg() else 0)
        if size > limits.size:
            raise RefusedArchiveError(f"more than {limits.size} bytes once unpacked (max_unpacked)")
        if not info.isreg():
            kept += len(info.name) + len(info.linkname) + _PART_COST * len(path)
        if kept > _MOST_KEPT:
            raise RefusedArchiveError("the names of its directories and links take too much memory")
        yield path, info
    if not entries:
        raise RefusedArchiveError("it is empty, and would leave the destination empty")


def check_member(info: tarfile.TarInfo) -> Parts:
    """Check a member by its header, and return its path.

    Raises:
        RefusedArchiveError: it may not be in an archive.
    """
    path = parts(info.name)
    if info.type not in _KNOWN:
        _refuse(
            info,
            f"is {_TYPES.get(info.type, 'of an unknown type')}; allowed are files, directories and links",
        )
    if not path and not info.isdir():
        _refuse(info, "names the destination itself, but is not a directory")
    if info.isreg():
        _check_file(info)
    if not (math.isfinite(info.mtime) and abs(info.mtime) < _LAST_SECOND):
        _refuse(info, "has an impossible time")
    if not (0 <= info.uid < _LAST_ID and 0 <= info.gid < _LAST_ID):
        _refuse(info, "has an impossible owner")
    if info.islnk():
        parts(info.linkname)
    if info.issym() and (not info.linkname or "\0" in info.linkname):
        _refuse(info, "is a symbolic link to nowhere")
    if info.issym() and _size(info.linkname) > _LONGEST_LINK:
        _refuse(info, f"is a symbolic link to a path of more than {_LONGEST_LINK} bytes")
    return path


def _check_file(info: tarfile.TarInfo) -> None:
    if info.name.endswith("/") or info.size < 0:
        _refuse(info, "is a file named like a directory, or without a length")
    if info.mode & _SETID:
        _refuse(info, "is set-uid or set-gid; remove that, and set it in a `post` command")
    at = 0
    for offset, size in pieces(info):
        if offset < at or size < 0 or offset + size > info.size:
            _refuse(info, "is a sparse file with a damaged map; the archive is damaged")
        at = offset + size


def pieces(info: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Where in a sparse file there is something: offset and length; in an old header others fill the map."""
    found = cast("list[tuple[int, int]]", info.sparse or [])
    return [(offset, size) for offset, size in found if size]


def parts(name: str) -> Parts:
    """Split a member's name into its components.

    Raises:
        RefusedArchiveError: it is absolute, contains `..`, is too long, or has a NUL.
    """
    found = tuple(part for part in name.split("/") if part not in ("", "."))
    if not name or name.startswith("/"):
        raise RefusedArchiveError(f"{name!r:.200} is empty or absolute; make the archive with tar -C DIR .")
    if ".." in found:
        raise RefusedArchiveError(f"{name!r:.200} contains `..`")
    if "\0" in name or len(name) > LONGEST_NAME or len(found) > DEEPEST:
        limits = f"{LONGEST_NAME} characters, deeper than {DEEPEST} levels"
        raise RefusedArchiveError(f"{name!r:.200} is longer than {limits}, or has a NUL")
    if any(_size(part) > _LONGEST_PART for part in found):
        raise RefusedArchiveError(f"{name!r:.200} has a component of more than {_LONGEST_PART} bytes")
    return found


def _size(name: str) -> int:
    return len(name.encode(errors="surrogateescape"))


def check_links(links: Mapping[Parts, str]) -> None:
    """Check all symbolic links of an archive: path -> target.

    Raises:
        RefusedArchiveError: one leads out of the tree.
    """
    for path, target in links.items():
        if leads_out(path, links):
            raise RefusedArchiveError(
                f"{'/'.join(path)!r:.200} is a link to {target!r:.200}, which leads out of the destination"
                " (outside_links)"
            )


def leads_out(path: Parts, links: Mapping[Parts, str]) -> bool:
    """Whether following the link at `path` leaves the root at any step; a dangling link does not.

    A name that looks harmless can lead out through another link (`x -> a/..` where `a -> b/c` is one), so it
    is followed as the kernel does, through all the others.
    """
    at, todo, hops = list(path[:-1]), deque([path[-1]]), 0
    while todo:
        step = todo.popleft()
        if step == "..":
            if not at:
                return True
            at.pop()
        elif step not in ("", "."):
            at.append(step)
            target = links.get(tuple(at))
            if target is None:
                continue
            hops += 1
            if target.startswith("/"):
                return True
            if hops > _MOST_HOPS:
                return False
            at.pop()
            todo.extendleft(reversed(target.split("/")))
    return False


_TYPES: Final = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a fifo",
    tarfile.CONTTYPE: "a contiguous file",
}


def _refuse(info: tarfile.TarInfo, why: str) -> None:
    raise RefusedArchiveError(f"{info.name!r:.200} {why}")

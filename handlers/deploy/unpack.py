"""A program that unpacks one archive into an empty directory: `-m handlers.deploy.unpack ARCHIVE DIRECTORY`.

It runs as a separate process, so that a large archive costs the daemon no memory, and its time limit ends it
together with the decompressor it started. It reads the archive once and writes only to DIRECTORY.

It prints one JSON object: {"entries": N, "bytes": N}, or {"refused": "why"} with exit status 65, or
{"failed": "why"} with exit status 75 (sysexits.h: EX_DATAERR, EX_TEMPFAIL), or nothing if it needs more
memory or time than it may have (`agentd.limits`).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import signal
import sys
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from agentd.limits import OUT_OF_MEMORY, Limits
from handlers.deploy.archive import Contents, opened
from handlers.deploy.extractor import Extractor
from handlers.deploy.members import (
    ArchiveLimits,
    Parts,
    RefusedArchiveError,
    check_links,
    members,
    parts,
    pieces,
)

REFUSED: Final = 65
FAILED: Final = 75
_PR_SET_PDEATHSIG: Final = 1
_MEMORY: Final = 2**30
_SECONDS: Final = 300
_BYTES_A_SECOND: Final = 8 * 2**20
_UNREADABLE: Final = (
    *(tarfile.TarError, EOFError, ValueError, TypeError, AttributeError),
    *(ArithmeticError, LookupError, RecursionError),
)
"""What tarfile raises for a damaged archive, such as one with half a map of a sparse file."""
_IMPOSSIBLE: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EOVERFLOW, errno.ELOOP, errno.EMLINK}
)
"""What the kernel answers for a member that cannot be there, however often it is tried."""


def limits_of(size: int) -> Limits:
    """What this program may use to unpack `size` bytes, and each decompressor that it starts."""
    return Limits(memory=_MEMORY, cpu=_SECONDS + size // _BYTES_A_SECOND)


def unpack(
    archive: Path,
    directory: Path,
    limits: ArchiveLimits,
    *,
    mode: int = 0o755,
    keep_owner: bool = False,
    outside_links: bool = False,
) -> tuple[int, int]:
    """Unpack into `directory`, which is empty.

    Args:
        archive: a tar archive, packed or not.
        directory: where to unpack it.
        limits: how much may come out of it.
        mode: that `directory` gets at the end.
        keep_owner: give each member the owner that the archive names, if run by root.
        outside_links: allow symbolic links that lead out of `directory`.

    Returns:
        The number of members, and of bytes in files.

    Raises:
        RefusedArchiveError: it holds something that must not be unpacked, or too much.
        OSError: the disk is full, or the decompressor is missing.
    """
    entries = size = 0
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    extractor = Extractor(root, keep_owner=keep_owner and os.geteuid() == 0)
    try:
        with opened(archive, limits) as (tar, contents):
            for path, info in members(tar, limits):
                _place(extractor, contents, path, info)
                entries, size = entries + 1, size + (info.size if info.isreg() else 0)
        if not outside_links:
            check_links(extractor.links)
        extractor.finish(mode)
        _settle(root)
    except _UNREADABLE as error:
        raise RefusedArchiveError(
            f"damaged archive, or not a tar archive: {str(error)[:300] or type(error).__name__}"
        ) from error
    except OSError as error:
        if error.errno not in _IMPOSSIBLE:
            raise
        raise RefusedArchiveError(f"it cannot be unpacked: {error.strerror}") from error
    finally:
        extractor.close()
        os.close(root)
    return entries, size


def _place(extractor: Extractor, contents: Contents, path: Parts, info: tarfile.TarInfo) -> None:
    if info.isdir():
        extractor.directory(path, info)
    elif info.issym():
        extractor.symlink(path, info)
    elif info.islnk():
        extractor.hard_link(path, parts(info.linkname))
    else:
        extractor.file(path, info, lambda descriptor: _fill(contents, info, descriptor))


def _fill(contents: Contents, info: tarfile.TarInfo, descriptor: int) -> None:
    """Write the contents of a file; of a sparse one, the pieces that it has."""
    if not info.issparse():
        contents.send(descriptor, info.offset_data, info.size)
        return
    at = info.offset_data
    for offset, size in pieces(info):
        os.lseek(descriptor, offset, os.SEEK_SET)
        contents.send(descriptor, at, size)
        at += size
    os.ftruncate(descriptor, info.size)


def _settle(root: int) -> None:
    """Write it all to disk before it can be swapped in (syncfs(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(root):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def end_with_parent() -> None:
    """End this process when the daemon ends, even if that is killed (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack as the arguments say, and print the result."""
    parser = argparse.ArgumentParser(prog="unpack", allow_abbrev=False)
    parser.add_argument("archive", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--max-size", type=int, required=True)
    parser.add_argument("--max-entries", type=int, required=True)
    parser.add_argument("--mode", type=partial(int, base=8), default=0o755)
    parser.add_argument("--keep-owner", action="store_true")
    parser.add_argument("--outside-links", action="store_true")
    given = parser.parse_args(arguments)
    limits = ArchiveLimits(given.max_size, given.max_entries)
    limits_of(limits.size).apply()  # the decompressor inherits them
    try:
        entries, size = unpack(
            given.archive, given.directory, limits,
            mode=given.mode, keep_owner=given.keep_owner, outside_links=given.outside_links,
        )  # fmt: skip
    except RefusedArchiveError as error:
        return _answer({"refused": str(error)}, REFUSED)
    except MemoryError:
        return OUT_OF_MEMORY
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return OUT_OF_MEMORY
        return _answer({"failed": error.strerror or str(error)}, FAILED)
    return _answer({"entries": entries, "bytes": size}, 0)


def _answer(what: dict[str, object], status: int) -> int:
    print(json.dumps(what))  # noqa: T201 (standard output is this program's interface)
    return status


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())

"""A program that unpacks one archive into an empty directory: `-m handlers.deploy.unpack ARCHIVE DIRECTORY`.

It runs as a process of its own, so that a large archive costs the daemon no memory, and its time limit ends
it together with the decompressor it started. It reads the archive once and writes nothing but DIRECTORY.

It prints one JSON object: {"entries": N, "bytes": N}, or {"refused": "why"} with exit status 65, or
{"failed": "why"} with exit status 75 (sysexits.h: EX_DATAERR, EX_TEMPFAIL).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final

from handlers.deploy.archive import CHUNK, Source, opened
from handlers.deploy.links import check_links
from handlers.deploy.members import Limits, Parts, RefusedArchiveError, members, parts
from handlers.deploy.tree import Tree

REFUSED: Final = 65
FAILED: Final = 75
_PR_SET_PDEATHSIG: Final = 1
_UNREADABLE: Final = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
"""What tarfile raises when an archive makes no sense, also by a thousand headers for one member."""


def unpack(
    archive: Path,
    directory: Path,
    limits: Limits,
    *,
    mode: int = 0o755,
    keep_owner: bool = False,
    outside_links: bool = False,
) -> tuple[int, int]:
    """Unpack into `directory`, which is empty.

    Args:
        archive: a tar archive, packed or not.
        directory: where to.
        limits: how much may come out of it.
        mode: of `directory` at the end.
        keep_owner: give each member the owner that the archive names, if this is root.
        outside_links: let symbolic links lead out of `directory`.

    Returns:
        The number of members, and of bytes in files.

    Raises:
        RefusedArchiveError: what it holds, or how much, must not be unpacked.
        OSError: the disk is full, or a program to decompress it is missing.
    """
    entries = size = 0
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    tree = Tree(root, keep_owner=keep_owner and os.geteuid() == 0)
    try:
        with opened(archive, limits.size) as (tar, source):
            for path, info in members(tar, limits):
                _place(tree, tar, source, path, info)
                entries, size = entries + 1, size + (info.size if info.isreg() else 0)
        if not outside_links:
            check_links(tree.links)
        tree.finish(mode)
        _settle(root)
    except _UNREADABLE as error:
        raise RefusedArchiveError(
            f"no tar archive, or a damaged one: {str(error) or type(error).__name__}"
        ) from error
    finally:
        tree.close()
        os.close(root)
    return entries, size


def _place(tree: Tree, archive: tarfile.TarFile, source: Source, path: Parts, info: tarfile.TarInfo) -> None:
    if info.isdir():
        tree.directory(path, info)
    elif info.issym():
        tree.symlink(path, info)
    elif info.islnk():
        tree.hard_link(path, parts(info.linkname))
    else:
        tree.file(path, info, lambda descriptor: _fill(archive, source, info, descriptor))


def _fill(archive: tarfile.TarFile, source: Source, info: tarfile.TarInfo, descriptor: int) -> None:
    """Write the content of a file."""
    if not info.issparse():
        source.send(descriptor, info.offset_data, info.size)
        return
    content = archive.extractfile(info)
    if content is None:
        raise EOFError("a file without content")
    with content, os.fdopen(os.dup(descriptor), "wb", buffering=0) as out:
        _copy(content, out, info.size)


def _copy(content: IO[bytes], out: IO[bytes], left: int) -> None:
    while left:
        data = content.read(min(left, CHUNK))
        if not data:
            raise EOFError("cut off")
        left -= len(data)
        view = memoryview(data)
        while view:
            view = view[out.write(view) :]


def _settle(root: int) -> None:
    """Have the tree on disk before anyone can make it the one that is served (syncfs(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(root):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def end_with_parent() -> None:
    """Have this process end when the daemon does, even if that is killed (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack as the arguments say; print what came of it."""
    parser = argparse.ArgumentParser(prog="unpack", allow_abbrev=False)
    parser.add_argument("archive", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--max-size", type=int, required=True)
    parser.add_argument("--max-entries", type=int, required=True)
    parser.add_argument("--mode", type=partial(int, base=8), default=0o755)
    parser.add_argument("--keep-owner", action="store_true")
    parser.add_argument("--outside-links", action="store_true")
    given = parser.parse_args(arguments)
    limits = Limits(given.max_size, given.max_entries)
    try:
        entries, size = unpack(
            given.archive, given.directory, limits,
            mode=given.mode, keep_owner=given.keep_owner, outside_links=given.outside_links,
        )  # fmt: skip
    except RefusedArchiveError as error:
        return _answer({"refused": str(error)}, REFUSED)
    except OSError as error:
        return _answer({"failed": error.strerror or str(error)}, FAILED)
    return _answer({"entries": entries, "bytes": size}, 0)


def _answer(what: dict[str, object], status: int) -> int:
    print(json.dumps(what))  # noqa: T201 (standard output is this program's interface)
    return status


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())

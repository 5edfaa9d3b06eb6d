"""Which files are known to hold what the manifests say, and how that is known without reading them again.

A file is read once; from then on it counts as undamaged for as long as lstat says the same of it. Generations
share unchanged files by hard link, so a file is remembered by its inode. Nothing here writes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Final, TypeAlias

from agentd.tree import disk
from agentd.tree.generation import FileEntry, Generation
from agentd.tree.vault import located

_Look: TypeAlias = tuple[int, int, int, int, int]
"""Size, mode, owner, time of change of the content, and of anything."""
_Inode: TypeAlias = tuple[int, int]

_MOST: Final = 100_000


class Seals:
    """What is known of the files of one tree. Any thread may call any method."""

    def __init__(self) -> None:
        self._known: dict[_Inode, tuple[_Look, str]] = {}

    def damaged(self, generation: Generation) -> list[str]:
        """The paths whose file is missing, or is not exactly as the manifest says.

        One lstat a file; those that are new here, or were touched since the last time, are read.
        """
        if len(self._known) > _MOST:
            self._known = {}
        return [path for path, entry in generation.files.items() if not self._sound(generation, path, entry)]

    def relink(self, generation: Generation) -> None:
        """Agentd itself made or removed links to these files, which changes the time of any change."""
        for path, entry in generation.files.items():
            try:
                inode, look = _look(os.lstat(f"{generation.directory}/{path}"))
            except OSError:
                continue
            known, digest = self._known.get(inode, (None, ""))
            if known is not None and known[:-1] == look[:-1] and digest == entry.sha256:
                self._known[inode] = look, digest

    def read(self, generation: Generation) -> Iterator[str | None]:
        """Read all files, whatever lstat says, a piece with each step. Yields the path of a damaged one."""
        for path, entry in generation.files.items():
            name = located(f"{generation.directory}/{path}", entry)
            digest = hashlib.sha256()
            try:
                inode, before = _look(os.lstat(name))
                with open(name, "rb", opener=_no_link) as file:
                    while piece := file.read(disk.CHUNK):
                        digest.update(piece)
                        yield None
                _, after = _look(os.lstat(name))
            except OSError:
                yield path
                continue
            if before[:-1] != after[:-1]:  # somebody writes to it: `damaged` notices
                continue
            if digest.hexdigest() != entry.sha256:
                self._known.pop(inode, None)
                yield path

    def _sound(self, generation: Generation, path: str, entry: FileEntry) -> bool:
        name = located(f"{generation.directory}/{path}", entry)
        try:
            found = os.lstat(name)
        except PermissionError:  # as in `_holds`
            return os.geteuid() != 0
        except OSError:
            return False
        inode, look = _look(found)
        if not stat.S_ISREG(found.st_mode) or look[:2] != (entry.size, entry.mode):
            return False
        if self._known.get(inode) != (look, entry.sha256):
            if not _holds(name, entry):
                return False
            self._known[inode] = look, entry.sha256  # as it looked before it was read
        return True


def _holds(name: str, entry: FileEntry) -> bool:
    """Whether the file has the content of the entry."""
    digest = hashlib.sha256()
    try:
        with open(name, "rb", opener=_no_link) as file:
            while piece := file.read(disk.CHUNK):
                digest.update(piece)
    except PermissionError:  # a command that is not run as root may not read keys, and cannot tell
        return os.geteuid() != 0
    except OSError:
        return False
    return digest.hexdigest() == entry.sha256


def _look(found: os.stat_result) -> tuple[_Inode, _Look]:
    mode = stat.S_IMODE(found.st_mode)
    return (found.st_dev, found.st_ino), (
        found.st_size,
        mode,
        found.st_uid,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _no_link(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW)

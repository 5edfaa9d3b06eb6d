"""Reads the [emerg] lines that one nginx wrote to its error log since a moment.

Owns the reading and its bounds: never more than the last 64 KiB, and a quotation of at most 1 KiB. The lines
of other processes (a `nginx -t` that runs meanwhile writes here as well) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_READ_BYTES: Final = 65_536
_QUOTED_LINES: Final = 5
_QUOTED_CHARACTERS: Final = 1024
_EMERG: Final = re.compile(rb"\[emerg\] (\d+)#\d+: (.*)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a log file: what stands behind it was written later."""

    path: Path
    inode: int
    size: int


def mark(path: Path) -> Mark:
    """The present end of the log; a log that cannot be read has its end at 0."""
    try:
        found = path.stat()
    except OSError:
        return Mark(path, 0, 0)
    return Mark(path, found.st_ino, found.st_size)


def emergencies(since: Mark, pids: Collection[int]) -> list[str]:
    """The messages of the [emerg] lines that `pids` wrote after the mark, oldest first, each once."""
    try:
        with since.path.open("rb") as log:
            now = mark(since.path)
            rotated = now.inode != since.inode or now.size < since.size
            log.seek(max(0 if rotated else since.size, now.size - _READ_BYTES))
            found = _EMERG.findall(log.read(_READ_BYTES))
    except OSError:
        return []
    return list(dict.fromkeys(_printable(text) for pid, text in found if int(pid) in pids))


def quote(lines: list[str]) -> str:
    """The end of `lines` as one line for an error message."""
    return "; ".join(lines[-_QUOTED_LINES:])[-_QUOTED_CHARACTERS:]


def _printable(text: bytes) -> str:
    return "".join(char if char.isprintable() else "?" for char in text.decode(errors="replace"))

"""Reads the [emerg] lines that one nginx has written to its error log since a given moment.

Owns the reading and its limits: never more than the last 64 KiB, and a quotation of at most 1 KiB. Lines of
other processes are left out: an `nginx -t` that runs at the same time writes to the same log.
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
_EMERG: Final = re.compile(rb"^[0-9/]{10} [0-9:]{8} \[emerg\] ([0-9]{1,10})#[0-9]+: (.*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a log file: whatever follows it was written later."""

    path: Path
    inode: int
    size: int


def mark(path: Path) -> Mark:
    """The current end of the log; 0 if the log cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return Mark(path, 0, 0)
    return Mark(path, found.st_ino, found.st_size)


def emergencies(since: Mark, pids: Collection[int]) -> list[str]:
    """The messages of the [emerg] lines that `pids` wrote after the mark: oldest first, no duplicates."""
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

"""Room on the disk for what is fetched: the last of it is left to the journal, which is on the same disk.

Imports nothing of agentd: the decompressor, whose start counts, asks as well.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

LEAST: Final = 64 * 2**20
"""Bytes that are left free; less on a small disk."""
_SHARE: Final = 20  # one part in so many of a small disk


def check(file: int | Path, more: int) -> None:
    """Check that so many more bytes fit on the disk of a file.

    Args:
        file: a descriptor, or a path.
        more: bytes.

    Raises:
        OSError: they do not, or too little would be left.
    """
    disk = os.statvfs(file)
    if disk.f_blocks == 0:  # it has no size of its own
        return
    least = min(LEAST, disk.f_blocks * disk.f_frsize // _SHARE)
    if disk.f_bavail * disk.f_frsize - more < least:
        said = f"less than {least >> 20} MB would be left there for the journal: make room, or lower max_size"
        raise OSError(errno.ENOSPC, f"{said} and max_expanded in sources")

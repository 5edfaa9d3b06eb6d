"""Renames that the C library offers and Python does not: renameat2(2)."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a filesystem answers that knows no such rename (NFS, for one)."""

_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2


def exchange(one: Path, other: Path) -> None:
    """Make each of two paths what the other was, in one step.

    Raises:
        OSError: neither has changed; `errno` is in `UNSUPPORTED` if the filesystem cannot do it.
    """
    _renameat2(one, other, _EXCHANGE)


def _renameat2(one: Path, other: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))

"""`file:` references: opens a file below an allowed directory, even if its path changes meanwhile.

The file is opened without effect (O_PATH), the kernel is asked for its real path, and only if that is below
the allowed directory is it opened for reading, through the descriptor that was checked: there is no moment
between check and use. A symbolic link may lead from place to place inside, never out. A hard link
looks like any file: keep untrusted writers out of the directories in `sources.allow`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Known
from agentd.sources.download import Download
from agentd.sources.reference import Location

_CHUNK: Final = 1024 * 1024
_SETTLED: Final = 2.0
"""Seconds after which a file that changes again has other times."""
_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)


def fill(
    location: Location, prefixes: Iterable[Location], download: Download, deadline: Deadline, known: Known
) -> Known | None:
    """Copy the file into the download.

    Returns:
        What tells this file from a later one; None, with nothing copied, if it is still the known one.

    Raises:
        PermanentError, TemporaryError: as `opened`; it is too large; no time is left.
    """
    with opened(location, prefixes) as file:
        status = os.fstat(file.fileno())
        found = _known(status)
        if found == known != Known():
            return None
        download.expect(status.st_size)
        while chunk := file.read(deadline.chunk(_CHUNK)):
            download.write(chunk)
            deadline.received(len(chunk), status.st_size)
        return found


def _known(status: os.stat_result) -> Known:
    """What tells this file from a later one: nothing if it has just changed.

    A second change within one tick of the kernel's clock would leave the same times. Unlike the others, the
    time of the last change of status cannot be set by whoever writes the file.
    """
    if abs(time.time() - status.st_ctime) < _SETTLED:
        return Known()
    one = (status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
    return Known(etag="-".join(f"{number:x}" for number in one))


@contextmanager
def opened(location: Location, prefixes: Iterable[Location]) -> Iterator[BinaryIO]:
    """Open the file that `location` names, for as long as the context lasts.

    Raises:
        PermanentError: it is missing, not a regular file, not readable, or below none of the prefixes.
        TemporaryError: the disk fails.
    """
    try:
        descriptor = _open(location, prefixes)
    except _NOT_THERE as error:
        raise PermanentError(f"{location}: no such file") from error
    except PermissionError as error:
        raise PermanentError(f"{location}: agentd's user may not read it") from error
    except OSError as error:
        raise TemporaryError(f"{location}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file


def _open(location: Location, prefixes: Iterable[Location]) -> int:
    unread = os.open(location.path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not any(_below(unread, prefix) for prefix in prefixes):
            raise PermanentError(f"{location} leads out of the directories in sources.allow")
        if not stat.S_ISREG(os.fstat(unread).st_mode):
            raise PermanentError(f"{location} is not a regular file")
        return os.open(f"/proc/self/fd/{unread}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(unread)


def _below(descriptor: int, prefix: Location) -> bool:
    """Whether the open file is below the prefix; the prefix itself may be, or be behind, a symbolic link."""
    try:
        allowed = os.open(prefix.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        root, path = _real(allowed), _real(descriptor)
    finally:
        os.close(allowed)
    return path == root or path.startswith(root.rstrip("/") + "/")


def _real(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())

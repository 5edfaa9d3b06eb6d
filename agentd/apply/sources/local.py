"""`file:` references: opens a file below an allowed directory, however its path is bent while we look.

The file is opened without effect (O_PATH), the kernel is asked where it really lies, and only if that is
below the allowed directory it is opened for reading, through the very descriptor that was asked about: there
is no moment between the check and the use. A symbolic link may lead from place to place inside, never out.
A hard link has no other place; keep untrusted writers out of the directories in `sources.allow`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.sink import Sink
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Known
from agentd.reference import Location

_CHUNK: Final = 1024 * 1024
_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)


def fill(
    location: Location, prefixes: Iterable[Location], sink: Sink, allowance: Allowance, known: Known
) -> Known | None:
    """Copy the file into the sink.

    Returns:
        What tells this file from a later one; None, with nothing copied, if it is still the one known.

    Raises:
        PermanentError, TemporaryError: see `opened`; too large; no time left.
    """
    with opened(location, prefixes) as file:
        status = os.fstat(file.fileno())
        found = Known(etag=f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")
        if found == known:
            return None
        sink.expect(status.st_size)
        while chunk := file.read(allowance.chunk(_CHUNK)):
            sink.write(chunk)
            allowance.received(len(chunk), status.st_size)
        return found


@contextmanager
def opened(location: Location, prefixes: Iterable[Location]) -> Iterator[BinaryIO]:
    """Open the file that `location` names, for as long as the context lasts.

    Raises:
        PermanentError: it is not there, not an ordinary file, not readable, or below none of the prefixes.
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
            raise PermanentError(f"{location} leads out of what sources.allow names")
        if not stat.S_ISREG(os.fstat(unread).st_mode):
            raise PermanentError(f"{location} is not an ordinary file")
        return os.open(f"/proc/self/fd/{unread}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(unread)


def _below(descriptor: int, prefix: Location) -> bool:
    """Whether what is open lies below the prefix; the prefix itself may be, or lie behind, a symlink."""
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

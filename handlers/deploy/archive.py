"""Opens an archive for reading from front to end, decompressed on the way by the program that made it.

It bounds what comes out of a decompressor, and sees to it that it found nothing wrong. What an archive may
hold is for `members` to say.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from handlers.deploy.members import RefusedArchiveError, StrictHeader

CHUNK: Final = 1 << 20
"""Bytes that are read at once."""

_PACKINGS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LONGEST_MAGIC: Final = 6


class _Counted:
    """A stream that ends the work when more comes out of it than may."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int) -> bytes:
        """Read on; b"" at the end."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise RefusedArchiveError("more comes out of it than may be unpacked (max_unpacked)")
        return data

    def drain(self) -> None:
        """Read to the end, so that whoever writes can end."""
        while self.read(CHUNK):
            pass


@contextmanager
def opened(path: Path, most: int) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, plain or packed by gzip, bzip2, xz or zstd, whatever its name.

    Args:
        path: the archive.
        most: the most bytes that may come out of it, as a plain tar archive.

    Raises:
        RefusedArchiveError: it is damaged, or larger than that.
        OSError: it cannot be read, or the program to decompress it is not installed.
    """
    with path.open("rb", buffering=0) as file:
        head = os.pread(file.fileno(), _LONGEST_MAGIC, 0)
        program = next((name for magic, name in _PACKINGS.items() if head.startswith(magic)), None)
        if program is None:
            with _tar(file, "r:") as archive:
                yield archive
            return
        with _decompressed(program, file, most) as stream, _tar(cast("IO[bytes]", stream), "r|") as archive:
            yield archive
            stream.drain()


def _tar(file: IO[bytes], mode: str) -> tarfile.TarFile:
    return tarfile.open(  # type: ignore[call-overload, no-any-return] # each mode has a signature of its own
        fileobj=file, mode=mode, tarinfo=StrictHeader, bufsize=CHUNK, errors="surrogateescape"
    )


@contextmanager
def _decompressed(program: str, file: IO[bytes], most: int) -> Iterator[_Counted]:
    try:
        process = subprocess.Popen(
            [program, "-dc"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except FileNotFoundError as error:
        raise OSError(f"{program} is needed to unpack it, and is not installed") from error
    with process:
        try:
            stream = cast("IO[bytes]", process.stdout)
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)
            yield _Counted(stream, most)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RefusedArchiveError(f"{program} finds it damaged or cut off")

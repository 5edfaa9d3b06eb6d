"""Opens an archive for reading from front to end, decompressed on the way by the program that made it.

It bounds what comes out of a decompressor, and how much a header can have read into memory: tarfile believes
any length that a header claims. Contents do not pass through this process, the kernel moves them. What an
archive may hold is for `members` to say.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol, cast

from handlers.deploy.members import RefusedArchiveError, StrictHeader

CHUNK: Final = 1 << 20
"""Bytes that are read at once, and that a header may have at most."""

_PACKINGS: Final = {
    b"\x1f\x8b": ("gzip", "-dc"),
    b"BZh": ("bzip2", "-dc"),
    b"\xfd7zXZ\0": ("xz", "-dc", "--memlimit=256MiB"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dc"),
}
_LONGEST_MAGIC: Final = 6


class Source(Protocol):
    """What tarfile reads headers from, and `send` takes contents from."""

    def send(self, descriptor: int, offset: int, size: int) -> None:
        """Write `size` bytes from `offset` on to another file.

        Raises:
            EOFError: there are not so many.
        """


class _Plain:
    """A file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Read a header, or a part of one."""
        return self._file.read(_bounded(size))

    def seek(self, offset: int) -> None:
        """Go on at `offset`."""
        self._file.seek(offset)

    def tell(self) -> int:
        """Return where it goes on."""
        return self._file.tell()

    def send(self, descriptor: int, offset: int, size: int) -> None:
        """See `Source`."""
        while size:
            done = os.sendfile(descriptor, self._file.fileno(), offset, size)
            if not done:
                raise EOFError("cut off")
            offset, size = offset + done, size - done


class _Piped:
    """A pipe, which can only go forward; no more than `most` bytes may come out of it."""

    def __init__(self, pipe: IO[bytes], most: int) -> None:
        self._pipe, self._most, self._at = pipe.fileno(), most, 0

    def read(self, size: int) -> bytes:
        """Read a header, or a part of one; less than `size` only at the end."""
        found = b""
        while len(found) < _bounded(size) and (piece := os.read(self._pipe, size - len(found))):
            found += piece
            self._advance(len(piece))
        return found

    def seek(self, offset: int) -> None:
        """Go on at `offset`, which is not before the present one."""
        if offset < self._at:
            raise RefusedArchiveError("it is packed, and cannot be read from back to front")
        while self._at < offset and self.read(min(CHUNK, offset - self._at)):
            pass

    def tell(self) -> int:
        """Return where it goes on."""
        return self._at

    def send(self, descriptor: int, offset: int, size: int) -> None:
        """See `Source`."""
        self.seek(offset)
        while size:
            done = os.splice(self._pipe, descriptor, size)
            if not done:
                raise EOFError("cut off")
            self._advance(done)
            size -= done

    def drain(self) -> None:
        """Read to the end, so that whoever writes can end."""
        while self.read(CHUNK):
            pass

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > self._most:
            raise RefusedArchiveError("more comes out of it than may be unpacked (max_unpacked)")


@contextmanager
def opened(path: Path, most: int) -> Iterator[tuple[tarfile.TarFile, Source]]:
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
        argv = next((argv for magic, argv in _PACKINGS.items() if head.startswith(magic)), None)
        if argv is None:
            plain = _Plain(file)
            with _tar(plain) as archive:
                yield archive, plain
            return
        with _decompressed(argv, file) as pipe:
            piped = _Piped(pipe, most)
            with _tar(piped) as archive:
                yield archive, piped
            piped.drain()


def _tar(source: _Plain | _Piped) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=cast("IO[bytes]", source), tarinfo=StrictHeader, errors="surrogateescape")


@contextmanager
def _decompressed(argv: tuple[str, ...], file: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        process = subprocess.Popen(
            argv, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except FileNotFoundError as error:
        raise OSError(f"{argv[0]} is needed to unpack it, and is not installed") from error
    with process:
        try:
            pipe = cast("IO[bytes]", process.stdout)
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)
            yield pipe
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RefusedArchiveError(f"{argv[0]} finds it damaged or cut off")


def _bounded(size: int) -> int:
    """The size of a read, if it is one that a header may ask for."""
    if size > CHUNK:
        raise RefusedArchiveError(f"a header claims {size} bytes")
    return size

"""Opens an archive for reading from start to end, decompressed on the way by gzip, bzip2, xz or zstd.

It bounds what comes out of a decompressor, or of the archive itself. File contents do not pass through this
process: the kernel moves them. Headers are judged by `headers`, what an archive may hold by `members`.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, cast

from handlers.deploy.headers import HeaderLimits, StrictHeader
from handlers.deploy.members import ArchiveLimits, RefusedArchiveError

CHUNK: Final = 1 << 20
"""Bytes to read at once."""

_PACKINGS: Final = {
    b"\x1f\x8b": ("gzip", "-dc"),
    b"BZh": ("bzip2", "-dc"),
    b"\xfd7zXZ\0": ("xz", "-dc", "--memlimit=256MiB"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dc"),
}
_LONGEST_MAGIC: Final = 6
_LAST_WORD: Final = 0.5
"""Seconds that a decompressor has to end once its output cannot be read."""


class _PlainFile:
    """An archive that is not compressed."""

    def __init__(self, file: IO[bytes], allowed: ArchiveLimits) -> None:
        self.limits = HeaderLimits(allowed.entries)
        self._file, self._left = file, allowed.size

    def read(self, size: int) -> bytes:
        """Read a header, or a part of one."""
        self._take(self.limits.read(size))
        return self._file.read(size)

    def peek(self, size: int) -> bytes:
        """What `read` will read next."""
        return os.pread(self._file.fileno(), self.limits.read(size), self._file.tell())

    def seek(self, offset: int) -> None:
        """Continue at `offset`."""
        self._file.seek(offset)

    def tell(self) -> int:
        """The offset that is read next."""
        return self._file.tell()

    def send(self, descriptor: int, offset: int, size: int) -> None:
        """Write `size` bytes, from `offset` on, to another file, past this process.

        Raises:
            EOFError: there are fewer.
        """
        self._take(size)
        while size:
            done = os.sendfile(descriptor, self._file.fileno(), offset, size)
            if not done:
                raise EOFError("cut off")
            offset, size = offset + done, size - done

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RefusedArchiveError("it has more bytes than max_unpacked allows")


class _Pipe:
    """The output of a decompressor, which only goes forward; at most `allowed.size` bytes come out of it."""

    def __init__(self, pipe: IO[bytes], allowed: ArchiveLimits) -> None:
        self.limits = HeaderLimits(allowed.entries)
        self._pipe, self._most, self._at = pipe.fileno(), allowed.size, 0
        self._peeked = b""

    def read(self, size: int) -> bytes:
        """Read a header, or a part of one; less than `size` only at the end."""
        return self._read(self.limits.read(size))

    def peek(self, size: int) -> bytes:
        """What `read` will read next."""
        found = self._read(self.limits.read(size))
        self._peeked = found + self._peeked
        self._at -= len(found)
        return found

    def seek(self, offset: int) -> None:
        """Continue at `offset`, which must not be behind us."""
        if offset < self._at:
            raise RefusedArchiveError("it is compressed, and cannot be read backwards")
        while self._at < offset and self._read(min(CHUNK, offset - self._at)):
            pass

    def tell(self) -> int:
        """The offset that is read next."""
        return self._at

    def send(self, descriptor: int, offset: int, size: int) -> None:
        """See `_PlainFile.send`."""
        self.seek(offset)
        while size:
            done = os.splice(self._pipe, descriptor, size)
            if not done:
                raise EOFError("cut off")
            self._advance(done)
            size -= done

    def drain(self) -> None:
        """Read to the end, so that the decompressor can exit."""
        while self._read(CHUNK):
            pass

    def _read(self, size: int) -> bytes:
        found, self._peeked = self._peeked[:size], self._peeked[size:]
        while len(found) < size and (piece := os.read(self._pipe, size - len(found))):
            found += piece
        self._advance(len(found))
        return found

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > self._most:
            raise RefusedArchiveError("it unpacks to more than max_unpacked allows")


Contents = _PlainFile | _Pipe


@contextmanager
def opened(path: Path, allowed: ArchiveLimits) -> Iterator[tuple[tarfile.TarFile, Contents]]:
    """Open a tar archive, plain or compressed by gzip, bzip2, xz or zstd, whatever its name.

    Args:
        path: the archive.
        allowed: how much may come out of it, counted as a plain tar archive.

    Raises:
        RefusedArchiveError: it is damaged, or larger than that.
        OSError: it cannot be read, or its decompressor is not installed.
    """
    with path.open("rb", buffering=0) as file:
        head = os.pread(file.fileno(), _LONGEST_MAGIC, 0)
        argv = next((argv for magic, argv in _PACKINGS.items() if head.startswith(magic)), None)
        if argv is None:
            plain = _PlainFile(file, allowed)
            with _tar(plain) as archive:
                yield archive, plain
            return
        with _decompressed(argv, file) as pipe:
            piped = _Pipe(pipe, allowed)
            with _tar(piped) as archive:
                yield archive, piped
            piped.drain()


def _tar(source: Contents) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=cast("IO[bytes]", source), tarinfo=StrictHeader, errors="surrogateescape")


@contextmanager
def _decompressed(argv: tuple[str, ...], file: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        process = subprocess.Popen(
            argv, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except FileNotFoundError as error:
        raise OSError(f"{argv[0]} is needed to unpack it, but is not installed") from error
    with process:
        try:
            pipe = cast("IO[bytes]", process.stdout)
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)
            yield pipe
        except (tarfile.TarError, RefusedArchiveError):
            with suppress(subprocess.TimeoutExpired):  # if too little came out, it knows why
                process.wait(_LAST_WORD)
            if process.poll() is not None:
                _check_end(argv[0], process.returncode)
            process.kill()
            raise
        except BaseException:
            process.kill()
            raise
    _check_end(argv[0], process.returncode)


def _check_end(program: str, status: int) -> None:
    if status < 0:
        raise RefusedArchiveError(f"{program} takes too much: it was ended by signal {-status}")
    if status:
        raise RefusedArchiveError(f"{program} reports that it is damaged, cut off, or takes too much memory")

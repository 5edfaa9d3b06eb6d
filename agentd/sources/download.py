"""Where fetched bytes go: a private directory per batch, and in it a private file per payload.

A file counts, limits and digests what is written to it; the directory is removed when the batch ends. Scratch
directories are in it as well.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agentd.errors import PermanentError, TemporaryError
from agentd.sources import room
from agentd.sources.reference import Digest
from agentd.tree import disk

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME: Final = 100


class DownloadDirectory:
    """A directory, 0700, made below `parent` when first needed; `close` removes it and all that is in it."""

    def __init__(self, parent: Path) -> None:
        self._parent, self._count = parent, 0
        self._scratch: disk.Scratch | None = None
        self._lock = threading.Lock()
        self._closed = False

    def new(self, name: str) -> Path:
        """The path of a file that does not exist yet, whose name ends like `name`.

        Raises:
            TemporaryError: the directory cannot be made, or the batch has ended.
        """
        with self._lock:
            if self._closed:  # for a call that outlived its batch
                raise TemporaryError("the time for this attempt is over")
            try:
                if self._scratch is None:  # a command may come before the daemon that owns the state
                    self._parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._scratch = disk.Scratch(self._parent)
            except OSError as error:
                raise TemporaryError(
                    f"cannot make a directory in {self._parent}: {error.strerror}"
                ) from error
            self._count += 1
            return self._scratch.path / f"{self._count:03}-{_UNSAFE.sub('_', name)[-_LONGEST_NAME:]}"

    def make(self) -> Path:
        """A new directory in it, for what is made of the files; raises TemporaryError as `new`."""
        path = self.new("made")
        try:
            room.check(path.parent, 0)
            path.mkdir(mode=0o700)
        except OSError as error:
            raise TemporaryError(f"cannot make a directory in {self._parent}: {error.strerror}") from error
        return path

    def close(self) -> None:
        """Remove it; calling this again does no harm."""
        with self._lock:
            self._closed = True
            if self._scratch:
                self._scratch.close()


class Download:
    """A new file, 0600, open while in use as a context manager; removed if the context ends with an error.

    Args:
        path: must not exist.
        source: where the bytes come from, as messages name it.
        max_size: the most bytes it takes.
        digest: the digest that its bytes must have, if known.
    """

    def __init__(self, path: Path, source: str, *, max_size: int, digest: Digest | None) -> None:
        self.path, self.size = path, 0
        self._source, self._max_size, self._digest = source, max_size, digest
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._hash = self._new_hash()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None:
            self.path.unlink(missing_ok=True)

    def expect(self, size: int) -> None:
        """Check an announced size before the bytes come.

        Raises:
            PermanentError: too many.
            TemporaryError: there is no room for them on the disk.
        """
        if size > self._max_size:
            raise PermanentError(
                f"{self._source}: {size} bytes, but at most {self._max_size} are allowed (max_size)"
            )
        try:
            room.check(self._file.fileno(), size - self.size)
        except OSError as error:
            raise self._unwritten(error) from error

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            PermanentError: that makes it too large.
            TemporaryError: the disk is full.
        """
        self.expect(self.size + len(chunk))
        unwritten = memoryview(chunk)
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:  # here, so that no transfer takes it for a broken connection
            raise self._unwritten(error) from error
        if self._hash is not None:
            self._hash.update(chunk)
        self.size += len(chunk)

    def _unwritten(self, error: OSError) -> TemporaryError:
        return TemporaryError(f"{self._source}: cannot write it to disk: {error.strerror}")

    def restart(self) -> None:
        """Discard what was written."""
        self._file.seek(0)
        self._file.truncate()
        self.size, self._hash = 0, self._new_hash()

    def verify(self) -> None:
        """Compare with the digest, if there is one; nobody may read the file before that.

        Raises:
            PermanentError: the digest differs.
        """
        if self._digest is None or self._hash is None:
            return
        found = Digest(self._digest.name, self._hash.hexdigest())
        if not hmac.compare_digest(found.hex, self._digest.hex):
            raise PermanentError(
                f"{self._source}: has {found} ({self.size} bytes), but {self._digest} was expected: "
                "correct the reference, or publish the right file"
            )

    def _new_hash(self) -> hashlib._Hash | None:
        return hashlib.new(self._digest.name, usedforsecurity=False) if self._digest else None

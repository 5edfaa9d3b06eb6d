"""The private file that a transfer fills: it counts, limits and digests what is written."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from agentd.errors import PermanentError, TemporaryError
from agentd.reference import Digest


class Sink:
    """A new file, 0600, open while in use as a context manager.

    Args:
        path: must not exist.
        source: what fills it, as it may be told.
        max_size: the most bytes it takes.
        digest: what its bytes must have, if that is known.
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
        """Take note of how many bytes are to come, before they do.

        Raises:
            PermanentError: too many.
        """
        if size > self._max_size:
            raise PermanentError(
                f"{self._source}: {size} bytes, and at most {self._max_size} are taken (max_size)"
            )

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
            raise TemporaryError(f"{self._source}: cannot be written to disk: {error.strerror}") from error
        if self._hash is not None:
            self._hash.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget what was written."""
        self._file.seek(0)
        self._file.truncate()
        self.size, self._hash = 0, self._new_hash()

    def verify(self) -> None:
        """Compare with the digest, if there is one; nobody reads the file before.

        Raises:
            PermanentError: the bytes are others.
        """
        if self._digest is None or self._hash is None:
            return
        found = Digest(self._digest.name, self._hash.hexdigest())
        if not hmac.compare_digest(found.hex, self._digest.hex):
            raise PermanentError(
                f"{self._source}: has {found} ({self.size} bytes), but {self._digest} was asked for: "
                "correct the reference, or put the right file there"
            )

    def _new_hash(self) -> hashlib._Hash | None:
        return hashlib.new(self._digest.name, usedforsecurity=False) if self._digest else None

"""The head of an answer, whole or not at all.

The standard library takes the end of the connection for the end of the head: an answer that breaks off there
would count as complete, with whatever headers had come, and with an empty body.
"""

from __future__ import annotations

import http.client
import io
from typing import BinaryIO, cast


class WholeHead(http.client.HTTPResponse):
    """A response whose `begin` raises ConnectionResetError if the connection ends in the head."""

    def begin(self) -> None:
        """Read the head."""
        stream = self.fp
        self.fp = cast("io.BufferedReader", _Head(stream))
        super().begin()
        if self.fp is not None:  # it is None where the head says that there is no body
            self.fp = stream


class _Head:
    """A stream whose end is an error."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readline(self, limit: int = -1) -> bytes:
        line = self._stream.readline(limit)
        if not line:
            raise ConnectionResetError("the connection ended in the head of the answer")
        return line

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

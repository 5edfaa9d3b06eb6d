"""Moves a program's input and output while it runs.

It owns the pipes and the end of the output. It must not signal or reap the program: `process.py` does.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import IO, Final, Self

_CHUNK: Final = 65536
_STOP_POLL: Final = 0.1
_DRAIN: Final = 16


class Pipes:
    """The pipes of one running program, and what it printed last.

    Neither side can block the other: a program that prints without end is read without being kept, one
    that does not read its input is not waited for, and a child that it left behind with the pipe open
    does not prolong the wait, because what counts is the end of the program itself (its pidfd).
    """

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, keep: int) -> None:
        self.output = bytearray()
        self._unsent = memoryview(stdin)
        self._keep = keep
        self._exited = os.pidfd_open(process.pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._exited, selectors.EVENT_READ, None)
        self._open: list[IO[bytes]] = []
        if process.stdout is not None:
            self._add(process.stdout, selectors.EVENT_READ, self._read)
        if process.stdin is not None:
            self._add(process.stdin, selectors.EVENT_WRITE, self._write)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in list(self._open):
            self._close(pipe)
        self._selector.close()
        os.close(self._exited)

    def pump(self, deadline: float, stop: Event | None = None) -> str:
        """Move data until the program ends.

        Args:
            deadline: on the monotonic clock.
            stop: gives up once it is set.

        Returns:
            "exit" if the program ended, else why the wait did: "timeout" or "stop".
        """
        while (left := deadline - time.monotonic()) > 0:
            if stop is not None and stop.is_set():
                return "stop"
            ready = self._selector.select(left if stop is None else min(left, _STOP_POLL))
            for key, _ in ready:
                if key.data is not None:
                    key.data(key.fileobj)
            if any(key.fd == self._exited for key, _ in ready):
                self._drain()
                return "exit"
        return "timeout"

    def _add(self, pipe: IO[bytes], event: int, move: Callable[[IO[bytes]], object]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, event, move)
        self._open.append(pipe)

    def _close(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        self._open.remove(pipe)
        with suppress(BrokenPipeError):
            pipe.close()

    def _read(self, pipe: IO[bytes]) -> bool:
        """Take one chunk; False if there is none now."""
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._close(pipe)
        self.output += chunk
        del self.output[: max(0, len(self.output) - self._keep)]
        return bool(chunk)

    def _write(self, pipe: IO[bytes]) -> None:
        """Hand over what fits, and close once all is sent or nobody is left to read it."""
        try:
            self._unsent = self._unsent[os.write(pipe.fileno(), self._unsent[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = self._unsent[:0]
        if not self._unsent:
            self._close(pipe)

    def _drain(self) -> None:
        """Take what the program printed last; bounded, for a child it left may print without end."""
        for pipe in self._open:
            if pipe.readable():
                for _ in range(_DRAIN):
                    if not self._read(pipe):
                        return

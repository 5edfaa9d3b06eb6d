"""The limits of one fetch: time, bandwidth, and a daemon that wants to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from agentd.errors import TemporaryError
from agentd.handler import Log

_PROGRESS: Final = 5.0
"""Seconds between two log lines about a long transfer."""
_SMALL: Final = 512
"""Bytes; a piece that brings fewer costs more than it brings."""
_SMALL_IN_A_ROW: Final = 256
_REST: Final = 0.01
"""Seconds of rest after so many small pieces, or a server that sends them fast keeps the interpreter busy."""


class Deadline:
    """When one fetch must end, and how fast it may go.

    Args:
        source: what is fetched, as messages name it.
        seconds: how long it may take.
        log: gets a line now and then while a transfer is long.
        stop: ends the fetch once set.
        rate: bytes per second at most, on average; None for no limit.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: str,
        seconds: float,
        *,
        log: Log,
        stop: threading.Event | None = None,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._log, self._rate, self._clock = source, log, rate, clock
        self.stop = stop or threading.Event()
        self._seconds = seconds
        self._deadline = clock() + seconds
        self._free_at = self._told_at = clock()
        self._received = self._small = 0

    def left(self) -> float:
        """Seconds left.

        Raises:
            TemporaryError: none is left, or the daemon wants to stop.
        """
        if self.stop.is_set():
            raise TemporaryError(f"{self._source}: agentd is stopping")
        left = self._deadline - self._clock()
        if left <= 0:
            raise TemporaryError(f"{self._source}: not fetched within {self._seconds:g} s")
        return left

    def pause(self, seconds: float) -> None:
        """Wait, but not past the deadline.

        Raises:
            TemporaryError: as `left`.
        """
        self.stop.wait(min(seconds, self.left()))
        self.left()

    def chunk(self, largest: int) -> int:
        """How many bytes to read at once, so that a low rate is kept in small steps."""
        return largest if self._rate is None else max(1024, min(largest, int(self._rate / 4)))

    def received(self, count: int, total: int | None) -> None:
        """Account for bytes received, and wait until more may come.

        Args:
            count: how many.
            total: how many there will be in all, if that is known.

        Raises:
            TemporaryError: as `left`.
        """
        self._received += count
        now = self._clock()
        if now - self._told_at >= _PROGRESS:
            self._told_at = now
            self._log.info("source.progress", source=self._source, received=self._received, total=total)
        self.left()
        self._small += count < _SMALL
        if self._small >= _SMALL_IN_A_ROW:
            self._small = 0
            self.pause(_REST)
        if self._rate is not None:
            self._free_at = max(self._free_at, now) + count / self._rate
            if self._free_at > now:
                self.pause(self._free_at - now)

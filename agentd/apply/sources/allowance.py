"""What one fetch may use up: time, bandwidth, and the patience of a daemon that wants to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from agentd.errors import TemporaryError
from agentd.handler import Log

_PROGRESS: Final = 5.0
"""Seconds between two lines on a long transfer."""


class Allowance:
    """The time and the bandwidth of one fetch.

    Args:
        source: what is fetched, as it may be told.
        seconds: how long it may take.
        log: told of a long transfer now and then.
        stop: ends it once set.
        rate: bytes a second at most, on average; None for no limit.
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
        self._received = 0

    @property
    def over(self) -> bool:
        """Whether there is no time left, or the daemon wants to stop."""
        return self.stop.is_set() or self._clock() >= self._deadline

    def left(self) -> float:
        """Seconds left.

        Raises:
            TemporaryError: none, or the daemon wants to stop.
        """
        if self.stop.is_set():
            raise TemporaryError(f"{self._source}: agentd stops")
        left = self._deadline - self._clock()
        if left <= 0:
            raise TemporaryError(f"{self._source}: not fetched within {self._seconds:g} s")
        return left

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end.

        Raises:
            TemporaryError: as `left`.
        """
        self.stop.wait(min(seconds, self.left()))
        self.left()

    def chunk(self, largest: int) -> int:
        """How many bytes to ask for at once, so that a slow rate is kept in small steps."""
        return largest if self._rate is None else max(1024, min(largest, int(self._rate / 4)))

    def received(self, count: int, total: int | None) -> None:
        """Account for bytes that came, and wait until more may.

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
        if self._rate is not None:
            self._free_at = max(self._free_at, now) + count / self._rate
            if self._free_at > now:
                self.pause(self._free_at - now)

"""A limit on the polling rate: an agent that answers at once, again and again, causes no busy loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FLOOR: Final = 0.1
"""Seconds between two answers that come at once, in the long run."""
BURST: Final = 256
"""Answers that may come at once before the floor applies: as many as the event ring holds.

The first event of a quiet period is never delayed, and neither are those of an ordinary burst."""


class RateLimit:
    """A bucket of `burst` answers, refilled by one every `floor` seconds.

    Args:
        timer: monotonic seconds.
        floor: seconds.
        burst: answers.
    """

    def __init__(self, timer: Callable[[], float], *, floor: float = FLOOR, burst: int = BURST) -> None:
        self._timer = timer
        self._floor = floor
        self._burst = burst
        self._left = float(burst)
        self._last = timer()

    def spend(self, took: float) -> float:
        """Count an answer that took `took` seconds; return the seconds to wait before the next question."""
        now = self._timer()
        self._left = min(self._burst, self._left + (now - self._last) / self._floor)
        self._last = now
        if took >= self._floor:
            return 0.0
        self._left -= 1.0
        return max(0.0, -self._left * self._floor)

"""Unix time that does not step while the daemon runs.

When the system's clock is set, by hand or by NTP, whatever waits must neither end at once nor wait that much
longer. So this clock runs on from where it was, a little faster or slower until it shows the system's time
again. What a restart of the daemon reads from disk may still be far ahead or behind: whoever stores a time
limits the wait itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_SLEW: Final = 0.05
"""Seconds by which it is corrected per second, so that an hour takes 20."""
_UNSET: Final = 86400.0
"""Seconds by which a system's clock is off that had never been set; from there it is followed at once."""


def _elapsed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine is suspended


class SteadyClock:
    """Call it for unix seconds; any thread may.

    Args:
        wall: the system's clock, which may be set.
        elapsed: seconds since any moment, never set.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._shown = wall()
        self._at = elapsed()

    def __call__(self) -> float:
        """Unix seconds, never less than the last time unless the system's clock was more than a day off."""
        with self._lock:
            at, wall = self._elapsed(), self._wall()
            passed = max(0.0, at - self._at)
            expected = self._shown + passed
            off = wall - expected
            if abs(off) > _UNSET:
                self._shown = wall
            else:
                self._shown = expected + max(-_SLEW * passed, min(_SLEW * passed, off))
            self._at = at
            return self._shown


unix_time: Final = SteadyClock()
"""The clock of this process."""

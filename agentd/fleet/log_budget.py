"""How many log lines an outsider can cause: whoever may write to Consul can put anything there for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MOST_LINES: Final = 30
"""Most lines in `WINDOW` seconds."""
WINDOW: Final = 60.0


class LogBudget:
    """Lines that may still be written.

    Args:
        clock: unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._lines = 0

    def take(self) -> bool:
        """Take one line; False if there is none left."""
        now = self._clock()
        if not 0 <= now - self._since < WINDOW:
            self._since, self._lines = now, 0
        self._lines += 1
        return self._lines <= MOST_LINES

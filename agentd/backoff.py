"""How long to wait before trying again: exponential with jitter.

For loops that wait on something that can wake or stop them; a loop that only sleeps between attempts uses
tenacity (see the poller).
"""

from __future__ import annotations

import random

_MOST_DOUBLINGS = 63  # keeps 2**n a sane float; `longest` is reached long before


class Backoff:
    """Waits of `first` seconds, doubled up to `longest`, plus up to a quarter of `first` of jitter."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        doubled = self._first * 2.0 ** min(max(attempt - 1, 0), _MOST_DOUBLINGS)
        jitter = random.uniform(0, self._first / 4)  # noqa: S311 (spreads a fleet; nobody gains by guessing it)
        return min(self._longest, doubled + jitter)

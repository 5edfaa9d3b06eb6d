"""How soon something may be done again: a few times in a row, and then at a limited rate.

Pure: the time is an argument.
"""

from __future__ import annotations


class Allowance:
    """A token bucket.

    Args:
        most: how many times in a row after a quiet period.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = float(most)
        self._at = 0.0

    def use(self, now: float, every: float, apart: float) -> float:
        """Note that it is done now. Returns the seconds until it may be done again.

        Args:
            now: monotonic seconds.
            every: seconds from one time to the next, in the long run.
            apart: seconds between two times, at least.
        """
        self._left = min(float(self._most), self._left + max(0.0, now - self._at) / every) - 1.0
        self._at = now
        return max(apart, (1.0 - self._left) * every)

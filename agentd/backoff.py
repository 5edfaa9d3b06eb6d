"""How long to wait before trying again: exponential with jitter, by tenacity's arithmetic, without its loop.

The loops that wait are the poller's and the worker's own, since both must stop, and be woken, in mid-wait.
"""

from __future__ import annotations

from typing import Any, cast

from tenacity import RetryCallState, wait_exponential, wait_random


class Backoff:
    """Waits of `first` seconds doubled up to `longest`, with up to a quarter of `first` of jitter."""

    def __init__(self, first: float, longest: float) -> None:
        self._longest = longest
        self._wait = wait_exponential(multiplier=first, max=longest) + wait_random(0, first / 4)

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        state = RetryCallState(retry_object=cast("Any", None), fn=None, args=(), kwargs={})
        state.attempt_number = max(1, min(attempt, 64))
        return min(self._longest, float(self._wait(state)))

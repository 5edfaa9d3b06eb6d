"""How the time that some work takes grows with what it is given, on a machine that does other work as well.

Owns the only way in which tests compare times. They are the processor's, and this thread's alone; yet a busy
machine makes any of them longer, so of several tries the shortest count, and one good pair is enough: work
that grows too fast is too slow in each of them. Must not judge by a clock on the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

TIMES: Final = 8
"""How many times as much `more` is as `less`."""
_MOST: Final = 3 * TIMES  # times as long; what grows with the square takes 64 times as long
_SLACK: Final = 0.005  # seconds, in which nothing can be told
_TRIES: Final = 6


class Growth(NamedTuple):
    """Seconds for some input, and for eight times as much."""

    less: float
    more: float

    @property
    def linear(self) -> bool:
        """Whether the time grows with the input, and not with its square."""
        return self.more <= _MOST * self.less + _SLACK


def growth(work: Callable[[T], object], less: T, more: T) -> Growth:
    """Measure some work until its time is seen to grow with the input, or several tries have shown otherwise.

    Args:
        work: what is measured; it returns normally.
        less: some input.
        more: `TIMES` times as much of it.

    Returns:
        The shortest times.
    """
    found = Growth(float("inf"), float("inf"))
    for _ in range(_TRIES):
        few = min(_seconds(work, less) for _ in range(3))  # a long one would excuse what grows too fast
        found = Growth(min(found.less, few), min(found.more, _seconds(work, more)))
        if found.linear:
            break
    return found


def _seconds(work: Callable[[T], object], given: T) -> float:
    began = time.thread_time()
    work(given)
    return time.thread_time() - began

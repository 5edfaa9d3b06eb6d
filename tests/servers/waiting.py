"""Waiting for the outside world, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 120.0
"""Seconds that anything may take on a machine that is busy with much else; who waits goes on at once."""


def wait_until(probe: Callable[[], T], what: str, *, seconds: float = PATIENCE, pause: float = 0.02) -> T:
    """Call `probe` until it returns something true, and return that.

    Args:
        probe: asked again and again; an OSError (nothing listens yet) counts as "not yet".
        what: completes the sentence "waited 120 s for ...".
        seconds: how long to go on asking.
        pause: seconds between two questions.

    Raises:
        TimeoutError: the deadline passed; the message has the last answer or error.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object
        try:
            answer = probe()
        except OSError as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}; last answer: {last!r}")
        time.sleep(pause)

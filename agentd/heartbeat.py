"""Heartbeats: which threads are alive. It owns the deadlines; others decide what a missed one means.

Before a thread does something that may take long, it says when to expect it back. A thread that is stuck, or
has died, does not beat again, and is stale once that time has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

FIRST_BEAT: Final = 30.0
"""Seconds that a thread has from its registration to its first beat."""


class Heartbeat:
    """One thread's pulse, made by `Heartbeats.register`; beating takes no lock and no system call."""

    __slots__ = ("_clock", "_until", "name")

    def __init__(self, name: str, clock: Callable[[], float], good_for: float) -> None:
        self.name = name
        self._clock = clock
        self._until = clock() + good_for

    def beat(self, good_for: float) -> None:
        """Promise to beat again within `good_for` seconds; a shorter promise replaces a longer one."""
        self._until = self._clock() + good_for

    def stale(self, now: float) -> bool:
        """Whether the promise is broken at `now`, in the clock's seconds."""
        return now > self._until


class Heartbeats:
    """All heartbeats, by name; any thread may call any method.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._beating: dict[str, Heartbeat] = {}

    def register(self, name: str, good_for: float = FIRST_BEAT) -> Heartbeat:
        """Expect beats from `name`. A thread that takes over a name also takes over its duty to beat."""
        heartbeat = Heartbeat(name, self._clock, good_for)
        with self._lock:
            self._beating[name] = heartbeat
        return heartbeat

    def forget(self, name: str) -> None:
        """Expect no more beats from `name`: its thread ended as it should. Unknown names are ignored."""
        with self._lock:
            self._beating.pop(name, None)

    def stale(self, now: float | None = None) -> list[str]:
        """The sorted names of those that are late at `now` (in the clock's seconds; None: now)."""
        with self._lock:
            beating = list(self._beating.values())
        moment = self._clock() if now is None else now
        return sorted(heartbeat.name for heartbeat in beating if heartbeat.stale(moment))

"""Decides whether a reload worked, from repeated looks at nginx.

Owns the rule and the waiting. Must not signal, and must not touch /proc or a socket itself: it is given the
look. A reload is proved when there are new workers, each old one is gone or draining, and the canary (asked
only then, so that no old worker can answer) names the wanted generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.02
# How long an [emerg] line must stand without new workers; for a taken port nginx itself tries for 2.5 s.
_SETTLED: Final = 0.25
_TRIES_AGAIN: Final = "bind() to "


@dataclass(frozen=True, slots=True)
class Look:
    """nginx at one moment after the signal.

    Attributes:
        alive: whether the master runs.
        new: workers that were not there before the signal.
        left: workers from before that still accept connections.
        draining: workers that only finish their connections.
        answer: what the canary said; None if it was not asked or did not answer.
        emergencies: [emerg] messages since the signal.
    """

    alive: bool
    new: frozenset[int]
    left: frozenset[int]
    draining: frozenset[int]
    answer: str | None
    emergencies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The generation to be served; `newer` also takes a later one, which holds the wanted one's changes."""

    generation: int
    newer: bool

    def met_by(self, answer: str | None) -> bool:
        """Whether the canary's answer is what is wanted."""
        if answer is None or not (answer.isascii() and answer.isdigit()):
            return False
        return int(answer) == self.generation or (self.newer and int(answer) > self.generation)


def wait_for_proof(
    look: Callable[[], Look],
    wanted: Wanted,
    deadline: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[bool, Look]:
    """Look until the reload is proved, has visibly failed, or `deadline` seconds passed.

    Returns:
        Whether it is proved, and the last look.
    """
    end = clock() + deadline
    pause = _FIRST_PAUSE
    refused_at: float | None = None
    while True:
        seen = look()
        now = clock()
        if seen.new and not seen.left and wanted.met_by(seen.answer):
            return True, seen
        refused_at = (refused_at or now) if _refused(seen) else None
        if now >= end or not seen.alive or (refused_at is not None and now - refused_at >= _SETTLED):
            return False, seen
        sleep(min(pause, end - now))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _refused(seen: Look) -> bool:
    """Whether nginx said that it keeps its old configuration."""
    return bool(seen.emergencies) and not seen.new and not seen.emergencies[-1].startswith(_TRIES_AGAIN)


def missing(seen: Look, wanted: Wanted) -> str:
    """What the proof lacks, in words for the operator."""
    if not seen.alive:
        return "its master process ended"
    if not seen.new:
        return "no new workers"
    if seen.left:
        return f"old workers still accept connections: {', '.join(map(str, sorted(seen.left)))}"
    return f"the canary answers {seen.answer!r}, not {wanted.generation}"

"""When this node writes to the log what it heard: so that of all that heard it one writes, and soon.

A pure function of the times that it is told and of a random number; the relay does what it says.

- Whoever wrote the newest message of a name goes on at once, so that there is mostly one writer without an
  election, and no list of members is needed to find it.
- The others wait, up to `_spread`, and most of them nearly so long: the density of the waits grows with time
  (the feedback suppression of multicast protocols: J. Nonnenmacher, E. Biersack, "Scalable feedback for large
  groups", 1999). So the first of any number comes early, and the second only when the first is done. Uniform
  waits make it as early only where several come at once: with 200 nodes, 0.7 failed writes an event against
  0.02.
- The longer a write takes, the longer all of that: the next one is to see it.
- A wait is an event's own. A node whose time has come reads the log, and writes only if an event whose time
  has come is still not in it; but then all that it has.
- Of a backlog, the node that works on it does the rest, unless that takes too long.
- A write that failed waits, each time twice as long: at most one node writes at any moment, or nobody does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Final

from agentd.backoff import Backoff

_STEEP: Final = 3.0
"""Beside ln N, how steeply the density of the waits grows; what is greater makes the first one later."""
_LONGEST_SPREAD: Final = 0.5
_SPREAD: Final = 0.04  # seconds, times the root of the number of nodes
_ROUNDS: Final = 16  # the spread is at least as long as so many writes take, ...
_FEW: Final = 10  # of fewer nodes it is shorter, as fewer pairs of them can write at the same moment, ...
_HEAD_START: Final = 3  # ... after so many, which are the writer's, ...
_APART: Final = 2  # ... who leaves so many between two of its own
_SLOWEST: Final = 0.05  # seconds that count at most of one write
_SMOOTH: Final = 8
_PAUSE: Final = 0.0005  # seconds a node, ...
_LONGEST_PAUSE: Final = 0.1  # ... for which the writer collects what comes after a write
_LEFT: Final = 1.0
"""Seconds since it was heard, up to twice as many, for which an event is left to a node that is at work."""
_COLLIDED: Final = 0.002  # seconds a node
_LONGEST: Final = 2.0  # seconds until a write that failed is tried again
_LOOK: Final = 0.003  # seconds a node, over which the looks of a fleet are spread
_MOST_DOUBLINGS: Final = 16
_FAILED: Final = Backoff(0.1, _LONGEST)
_LONGEST_ASKED: Final = 60.0  # seconds that a Consul that limits requests is left alone
SELDOM: Final = 60.0
"""Seconds, on average, until what only a person can mend is tried again."""


class Pace:
    """The times at which events are to be written; all times are monotonic seconds.

    Args:
        members: how many nodes the agent knows.
        chance: a number from 0 to 1, another one each time.
    """

    def __init__(self, members: Callable[[], int], chance: Callable[[], float] = random.random) -> None:
        self._members = members
        self._chance = chance
        self._due: dict[str, tuple[str, float]] = {}  # of an event: its name, and when
        self._heard: dict[str, float] = {}
        self._put_off: dict[str, float] = {}
        self._looks: dict[str, float] = {}
        self._wrote: dict[str, float] = {}
        self._held = -math.inf
        self._collisions = 0
        self._failures = 0
        self._round = 0.0

    def heard(self, event: str, name: str, now: float) -> None:
        """An event of that name is not in the log as far as is known; hearing it again changes nothing."""
        if event not in self._due:
            self._heard[event] = now
            wrote = self._wrote.get(name)
            pause = max(min(_LONGEST_PAUSE, _PAUSE * self._nodes()), _APART * self._round)
            self._due[event] = name, now + self._wait() if wrote is None else max(now, wrote + pause)

    def settled(self, events: Iterable[str]) -> None:
        """These are in the log, or will never be."""
        for event in events:
            self._due.pop(event, None)
            self._heard.pop(event, None)

    def look(self, name: str, now: float) -> None:
        """The log of that name is to be compared with what this node holds of it, as others will do, too."""
        spread = min(_LONGEST, _LOOK * self._nodes())
        self._looks.setdefault(name, now + spread * self._chance())

    def looked(self, name: str) -> None:
        """That was done."""
        self._looks.pop(name, None)

    def looks(self, now: float) -> list[str]:
        """The names of which that is to be done now."""
        return [name for name, at in self._looks.items() if at <= now]

    @property
    def due(self) -> float:
        """When something is to be done next; infinity if nothing waits."""
        dues = map(self._time_of, self._due) if self._put_off else (at for _, at in self._due.values())
        first = min(min(dues, default=math.inf), min(self._looks.values(), default=math.inf))
        return max(self._held, first)

    def is_due(self, event: str, now: float) -> bool:
        """Whether an event's own time has come."""
        return event in self._due and self._time_of(event) <= now

    def _time_of(self, event: str) -> float:
        name, due = self._due[event]
        return max(due, self._put_off.get(name, due))

    # ------------------------------------------------------------------ what came of it

    def wrote(self, name: str, now: float, took: float) -> None:
        """This node wrote the newest message of that name, which took so many seconds."""
        self._wrote[name] = now
        self._measure(took)
        self._collisions = 0

    def newest(self, name: str, *, ours: bool) -> None:
        """The newest message of that name is from this node, or it is not."""
        if not ours:
            self._wrote.pop(name, None)
        else:
            self._wrote.setdefault(name, -math.inf)

    def leave(self, name: str, now: float) -> None:
        """Another node is at work on what has piled up of that name; it is left to it for a second or two."""
        for event, (own, due) in self._due.items():
            if own == name:
                latest = self._heard[event] + _LEFT * (1 + self._chance())
                self._due[event] = name, max(due, min(now + self._wait(), latest))

    def collided(self, now: float, took: float) -> None:
        """Another node wrote at the same moment; to find that out took so many seconds."""
        self._measure(took)
        self._collisions += 1
        doubled = _COLLIDED * self._nodes() * 2.0 ** min(self._collisions - 1, _MOST_DOUBLINGS)
        self._held = now + min(_LONGEST, doubled) * (0.5 + self._chance() / 2)

    def failed(self, now: float, retry_after: float | None = None) -> None:
        """The log did not answer, or wants to be asked again after so many seconds."""
        self._failures += 1
        wait = _FAILED.delay(self._failures)
        if retry_after is not None:
            wait = min(max(wait, retry_after), _LONGEST_ASKED) * (1 + self._chance() / 4)
        self._held = now + wait

    def refused(self, now: float) -> None:
        """Consul says that this node may not do it."""
        self._held = now + SELDOM * (0.75 + self._chance() / 2)

    def put_off(self, name: str, now: float) -> None:
        """The log of this name cannot be used, whoever asks."""
        self._put_off[name] = now + SELDOM * (0.75 + self._chance() / 2)

    def answered(self) -> None:
        """The log answers: whatever failed before does not hold anything back."""
        if self._failures:
            self._failures = 0
            self._held = -math.inf

    def _measure(self, took: float) -> None:
        self._round += (min(took, _SLOWEST) - self._round) / (_SMOOTH if self._round else 1)

    def _nodes(self) -> int:
        return max(1, self._members())

    def _wait(self) -> float:
        """A random time within the spread; its density grows exponentially with it."""
        nodes = self._nodes()
        if nodes == 1:
            return 0.0
        spread = max(min(_LONGEST_SPREAD, _SPREAD * math.sqrt(nodes)), _ROUNDS * self._round)
        spread *= min(1.0, nodes / _FEW) ** 2
        steep = math.log(nodes) + _STEEP
        late = math.log1p(self._chance() * math.expm1(steep)) / steep
        return _HEAD_START * self._round + spread * late

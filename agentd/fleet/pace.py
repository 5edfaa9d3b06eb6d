"""When this node writes to the log what it heard: so that of all that heard it one writes, and soon.

A pure function of the times that it is given and of a random number; the relay does what it says.

- Whoever wrote the newest event of a name goes on at once, so that there is mostly one writer without an
  election, and no list of members is needed to find it.
- The others wait, up to `_spread`, and most of them nearly so long: the density of the waits grows with time
  (the feedback suppression of multicast protocols: J. Nonnenmacher, E. Biersack, "Scalable feedback for large
  groups", 1999). So the first of any number comes early, and the second only when the first is done. The
  spread is long, and its density steep: nearly all are to learn from their followers what the first one wrote.
- The longer a write takes, the longer all of that: the next one is to see it.
- What counts is the event of a name that has waited longest. A node whose time has come reads the log, and
  writes only if that event is still not in it; but then all that it has.
- While another node works on a backlog, it is left to that node, but for what that node has not heard.
- A write that failed waits, each time twice as long: at most one node writes at any moment, or nobody does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentd.backoff import Backoff

_FIRST: Final = 0.015  # seconds, times the root of the number of nodes, until the first of them comes, ...
_LATEST_FIRST: Final = 0.2  # ... but at most so many
_SPREAD: Final = 5.0
"""Times that, until the last one would come: before, its follower is to bring what the first one wrote."""
_ROUNDS: Final = 16  # the spread is at least as long as so many writes take, ...
_FEW: Final = 10  # of fewer nodes it is shorter, as fewer pairs of them can write at the same moment, ...
_HEAD_START: Final = 3  # ... after so many, which are the writer's, ...
_APART: Final = 2  # ... who leaves so many between two of its own
_SLOWEST: Final = 0.05  # seconds that count at most of one write
_SMOOTH: Final = 8
_PAUSE: Final = 0.0005  # seconds a node, ...
_LONGEST_PAUSE: Final = 0.1  # ... for which the writer collects what comes after a write
_LEFT: Final = 10.0
"""Seconds since it was heard, up to twice as many, for which an event is left to a node that is at work."""
_PASSED: Final = 1.0
"""Seconds by which that node has gone beyond an event that it has not heard."""
_OUT_OF_REACH: Final = 0.5  # seconds: of an answer that took longer, others were waiting as well
_COLLIDED: Final = 0.002  # seconds a node
_LONGEST: Final = 2.0  # seconds until a write that failed is tried again
_LOOK: Final = 0.003  # seconds a node, over which the looks of a fleet are spread
_MOST_DOUBLINGS: Final = 16
_FAILED: Final = Backoff(0.1, _LONGEST)
_LONGEST_ASKED: Final = 60.0  # seconds that a Consul that limits requests is left alone
SELDOM: Final = 60.0
"""Seconds, on average, until what only a person can mend is tried again."""


@dataclass(slots=True)
class _Name:
    """Of one name.

    Attributes:
        since: when the event was heard that has waited longest; None if none waits.
        due: when it is this node's turn to write it.
        wrote: when this node wrote the newest event; None if another node did.
        look: when the log is to be compared with what this node holds, or infinity.
        put_off: until when its log is left alone.
    """

    since: float | None = None
    due: float = math.inf
    wrote: float | None = None
    look: float = math.inf
    put_off: float = -math.inf


class Pace:
    """The times at which events are to be written; all times are monotonic seconds.

    Args:
        members: how many nodes the agent knows.
        chance: a number from 0 to 1, another one each time.
    """

    def __init__(self, members: Callable[[], int], chance: Callable[[], float] = random.random) -> None:
        self._members = members
        self._chance = chance
        self._names: dict[str, _Name] = {}
        self._held = -math.inf
        self._collisions = 0
        self._failures = 0
        self._round = 0.0
        self._was_slow = False

    def waits(self, name: str, since: float | None, now: float) -> None:
        """The event of a name that has waited longest was heard then; None if none waits."""
        one = self._of(name)
        if since is None:
            one.since, one.due = None, math.inf
        elif one.wrote is not None:
            pause = max(min(_LONGEST_PAUSE, _PAUSE * self._nodes()), _APART * self._round)
            one.since, one.due = since, max(since, one.wrote + pause) if since > one.wrote else since
        elif since != one.since:
            wait = self._wait()
            # What is left of a backlog has waited with all nodes alike: their waits begin now.
            one.since, one.due = since, (since if since + wait > now else now) + wait

    def look(self, name: str, now: float) -> None:
        """The log of that name is to be compared with what this node holds of it, as others will do, too."""
        one = self._of(name)
        if one.look == math.inf:
            one.look = now + min(_LONGEST, _LOOK * self._nodes()) * self._chance()

    def looked(self, name: str) -> None:
        """That was done."""
        self._of(name).look = math.inf

    def looks(self, name: str, now: float) -> bool:
        """Whether that is to be done now."""
        return self._of(name).look <= now

    @property
    def due(self) -> float:
        """When something is to be done next; infinity if nothing waits."""
        dues = (min(max(one.due, one.put_off), one.look) for one in self._names.values())
        return max(self._held, min(dues, default=math.inf))

    def ripe(self, name: str, now: float) -> float | None:
        """The events of that name that were heard until then are due; None if none is."""
        one = self._of(name)
        if one.since is None or max(one.due, one.put_off) > now:
            return None
        return now if one.wrote is not None else one.since + now - one.due

    # ------------------------------------------------------------------ what came of it

    def wrote(self, name: str, now: float, took: float) -> None:
        """This node wrote the newest event of that name, which took so many seconds."""
        self._of(name).wrote = now
        self._measure(took)
        self._collisions = 0

    def newest(self, name: str, *, ours: bool) -> None:
        """The newest event of that name is from this node, or it is not."""
        one = self._of(name)
        if not ours and one.wrote is not None:
            one.wrote, one.since = None, None  # it waits like the others, from now on
        elif ours and one.wrote is None:
            one.wrote = -math.inf

    def leads(self, name: str) -> bool:
        """Whether the newest event of that name is from this node."""
        return self._of(name).wrote is not None

    def leave(self, name: str, now: float, done: float) -> None:
        """Another node is at work on what has piled up of that name; it is left to it, for a while.

        `done`: when the youngest event that is in the log was heard. What is much older, that node did not
        hear.
        """
        one = self._of(name)
        if one.since is not None and done < one.since + _PASSED:
            latest = one.since + _LEFT * (1 + self._chance())
            one.due = max(one.due, min(now + self._wait(), latest))

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
        self._of(name).put_off = now + SELDOM * (0.75 + self._chance() / 2)

    def answered(self, now: float, took: float) -> None:
        """The log answered after so many seconds: whatever failed before does not hold anything back.

        If it was out of reach, all nodes have waited for it: but for the writer, they wait anew.
        """
        is_back = self._failures > 0 or (took > _OUT_OF_REACH and not self._was_slow)
        self._was_slow = took > _OUT_OF_REACH
        if self._failures:
            self._failures = 0
            self._held = -math.inf
        for one in self._names.values() if is_back else ():
            if one.since is not None and one.wrote is None:
                one.due = now + self._wait()

    def _of(self, name: str) -> _Name:
        return self._names.setdefault(name, _Name())

    def _measure(self, took: float) -> None:
        self._round += (min(took, _SLOWEST) - self._round) / (_SMOOTH if self._round else 1)

    def _nodes(self) -> int:
        return max(1, self._members())

    def _wait(self) -> float:
        """A random time within the spread; its density grows exponentially with it."""
        nodes = self._nodes()
        if nodes == 1:
            return 0.0
        spread = max(_SPREAD * min(_LATEST_FIRST, _FIRST * math.sqrt(nodes)), _ROUNDS * self._round)
        spread *= min(1.0, nodes / _FEW) ** 2
        steep = math.log(nodes) / (1.0 - 1.0 / _SPREAD)  # of so many, about one comes within the first part
        late = math.log1p(self._chance() * math.expm1(steep)) / steep
        return _HEAD_START * self._round + spread * late

"""Decides when this node writes heard events to the log: of all nodes that heard them, one is to write, soon.

Pure: it works on times that it is given and on random numbers, and the relay acts on the result.

- The node that wrote the newest event of a name writes the next ones at once. So there is usually one writer,
  without an election or a list of members.
- All others wait a random time, and most of them nearly the whole spread: the density of the waits grows
  exponentially (feedback suppression as in multicast: J. Nonnenmacher, E. Biersack, "Scalable feedback for
  large groups", 1999). So however many there are, the first one writes early, and nearly all others get what
  it wrote through their followers before their own wait ends.
- The longer writes take, the longer the waits.
- The event that has waited longest decides. A node whose wait is over reads the log, and writes if that event
  is still missing: then all that it has.
- A backlog is left to the node that works on it, except for events that this node has not heard.
- After an outage all but the writer wait anew, since all of them see its end at the same time.
- After a failed write a node backs off, twice as long each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentd.backoff import Backoff

_FIRST: Final = (
    0.015  # seconds until the first node writes, times the square root of the number of nodes, ...
)
_LATEST_FIRST: Final = 0.2  # ... at most
_SPREAD: Final = 5.0
"""The longest wait, as a multiple of the first one."""
_ROUNDS: Final = 16  # the spread is at least as long as this many writes take
_FEW: Final = 10  # with fewer nodes it is shorter, since fewer of them can collide
_HEAD_START: Final = 3  # writes that the writer can do before the other nodes' waits begin
_APART: Final = 2  # writes that would fit between two of the writer's own
_SLOWEST: Final = 0.05  # seconds; a write that takes longer counts as this long
_SMOOTH: Final = 8
_PAUSE: Final = 0.0005  # seconds per node for which the writer collects events after a write, ...
_LONGEST_PAUSE: Final = 0.1  # ... at most
_LEFT: Final = 10.0
"""Seconds since it was heard for which a backlog is left to another node; at most twice as long."""
_PASSED: Final = 1.0
"""Seconds: if the log has events that are younger by this much, the node at work has not heard this one."""
_OUT_OF_REACH: Final = 0.5  # seconds; if an answer takes longer, other nodes have been waiting for it as well
_COLLIDED: Final = 0.002  # seconds per node: the first back-off after a failed write
_LONGEST: Final = 2.0  # seconds between two attempts, at most
_LOOK: Final = 0.003  # seconds per node over which the comparisons of a fleet are spread
_MOST_DOUBLINGS: Final = 16
_FAILED: Final = Backoff(0.1, _LONGEST)
_LONGEST_ASKED: Final = 60.0  # seconds to wait, at most, when Consul limits requests
SELDOM: Final = 60.0
"""Seconds, on average, between two attempts at something that only an operator can fix."""


@dataclass(slots=True)
class _Name:
    """The state of one name; all times are monotonic seconds.

    Attributes:
        since: when the event that has waited longest was heard; None if none is waiting.
        due: when this node writes it.
        wrote: when this node wrote the newest event; None if another node did.
        look: when to compare the log with this node's copy; infinity for never.
        put_off: until when to leave its log alone.
    """

    since: float | None = None
    due: float = math.inf
    wrote: float | None = None
    look: float = math.inf
    put_off: float = -math.inf


class Pace:
    """When to write the waiting events of each name; all times are monotonic seconds.

    Args:
        members: returns the number of nodes that the agent knows.
        chance: returns random numbers from 0 to 1.
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
        """Set when the event of a name that has waited longest was heard; None if none is waiting."""
        one = self._of(name)
        if since is None:
            one.since, one.due = None, math.inf
        elif one.wrote is not None:
            pause = max(min(_LONGEST_PAUSE, _PAUSE * self._nodes()), _APART * self._round)
            one.since, one.due = since, max(since, one.wrote + pause) if since > one.wrote else since
        elif since != one.since:
            wait = self._wait()
            # The rest of a backlog has waited equally long on all nodes: without a new wait they collide.
            one.since, one.due = since, (since if since + wait > now else now) + wait

    def look(self, name: str, now: float) -> None:
        """Schedule a comparison of the log with this node's copy; other nodes will do the same."""
        one = self._of(name)
        if one.look == math.inf:
            one.look = now + min(_LONGEST, _LOOK * self._nodes()) * self._chance()

    def looked(self, name: str) -> None:
        """Note that the comparison was made."""
        self._of(name).look = math.inf

    def looks(self, name: str, now: float) -> bool:
        """Whether a comparison is due."""
        return self._of(name).look <= now

    @property
    def due(self) -> float:
        """When something is due next; infinity if nothing is waiting."""
        dues = (min(max(one.due, one.put_off), one.look) for one in self._names.values())
        return max(self._held, min(dues, default=math.inf))

    def ripe(self, name: str, now: float) -> float | None:
        """Events of that name that were heard up to this time are due; None if none is."""
        one = self._of(name)
        if one.since is None or max(one.due, one.put_off) > now:
            return None
        return now if one.wrote is not None else one.since + now - one.due

    # ------------------------------------------------------------------ what came of it

    def wrote(self, name: str, now: float, took: float) -> None:
        """Note that this node has written the newest event of that name; `took` is in seconds."""
        self._of(name).wrote = now
        self._measure(took)
        self._collisions = 0

    def newest(self, name: str, *, ours: bool) -> None:
        """Note whether this node wrote the newest event of that name."""
        one = self._of(name)
        if not ours and one.wrote is not None:
            one.wrote, one.since = None, None  # from now on it waits like the others
        elif ours and one.wrote is None:
            one.wrote = -math.inf

    def leads(self, name: str) -> bool:
        """Whether this node wrote the newest event of that name."""
        return self._of(name).wrote is not None

    def leave(self, name: str, now: float, done: float) -> None:
        """Leave a backlog to the node that is working on it, for a while.

        Args:
            name: of the log.
            now: the time.
            done: when the latest event that is in the log was heard here. The other node has not heard events
                that are much older and still missing.
        """
        one = self._of(name)
        if one.since is not None and done < one.since + _PASSED:
            latest = one.since + _LEFT * (1 + self._chance())
            one.due = max(one.due, min(now + self._wait(), latest))

    def collided(self, now: float, took: float) -> None:
        """Note that a write failed because another node wrote at the same moment; `took` is in seconds."""
        self._measure(took)
        self._collisions += 1
        doubled = _COLLIDED * self._nodes() * 2.0 ** min(self._collisions - 1, _MOST_DOUBLINGS)
        self._held = now + min(_LONGEST, doubled) * (0.5 + self._chance() / 2)

    def failed(self, now: float, retry_after: float | None = None) -> None:
        """Note that the log did not answer, or that Consul asked to wait for `retry_after` seconds."""
        self._failures += 1
        wait = _FAILED.delay(self._failures)
        if retry_after is not None:
            wait = min(max(wait, retry_after), _LONGEST_ASKED) * (1 + self._chance() / 4)
        self._held = now + wait

    def refused(self, now: float) -> None:
        """Note that the token lacks the rights."""
        self._held = now + SELDOM * (0.75 + self._chance() / 2)

    def put_off(self, name: str, now: float) -> None:
        """Note that the log of this name is unusable, for every node."""
        self._of(name).put_off = now + SELDOM * (0.75 + self._chance() / 2)

    def answered(self, now: float, took: float) -> None:
        """Note that the log has answered, which took so many seconds: earlier failures no longer count.

        After an outage all nodes but the writer wait anew.
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
        """A random wait in seconds, whose density grows exponentially."""
        nodes = self._nodes()
        if nodes == 1:
            return 0.0
        spread = max(_SPREAD * min(_LATEST_FIRST, _FIRST * math.sqrt(nodes)), _ROUNDS * self._round)
        spread *= min(1.0, nodes / _FEW) ** 2
        steep = math.log(nodes) / (
            1.0 - 1.0 / _SPREAD
        )  # so that one of them, on average, comes in the first fifth
        late = math.log1p(self._chance() * math.expm1(steep)) / steep
        return _HEAD_START * self._round + spread * late

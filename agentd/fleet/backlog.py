"""The heard events that wait for the log, in memory and in the journal.

Owns the journal entries that wait for `RELAY`: which of them are held in memory, which were given to their
handlers provisionally, and how each ends. Makes no request to Consul.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple, Protocol

from agentd.errors import PermanentError
from agentd.fleet.envelope import Draft
from agentd.fleet.writer import MOST_DRAFTS, Landed
from agentd.journal.entry import RELAY, Ending, Entry, Outcome
from agentd.watch.changes import Event, Order

MOST_AT_ONCE: Final = 1000
"""Most events to take from the journal at a time; at most twice as many are held in memory."""
_UNDATED: Final = "it was in Consul's event ring before this node's journal began: its age is unknown"
_NOT_KEPT: Final = "its name is no longer kept: the handlers got it as an ordinary event"


class Mailbox(Protocol):
    """The part of the journal that the backlog needs (`journal.Journal`)."""

    def pending(self, handler: str, limit: int = 1000) -> list[Entry]:
        """The oldest waiting entries."""
        ...

    def newest_events(self, handler: str, after: int, limit: int = 1000) -> list[Entry]:
        """The newest waiting entries after the one with this seq."""
        ...

    def backlog(self) -> Mapping[str, int]:
        """The number of waiting entries, by handler."""
        ...

    def end(self, endings: Iterable[Ending]) -> list[Ending]:
        """Close entries with their outcomes."""
        ...


class _Heard(NamedTuple):
    """A waiting event."""

    order: Order
    id: str
    entry: Entry
    event: Event
    at: float  # by the timer


class Backlog:
    """The waiting events; used by the relay's thread alone.

    Args:
        journal: has the events that were heard.
        names: the kept names.
        provisionally: queues an event for its handlers provisionally; a second call has no effect.
        timer: monotonic seconds.
    """

    def __init__(
        self,
        journal: Mailbox,
        names: Iterable[str],
        provisionally: Callable[[Event], object],
        timer: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._provisionally = provisionally
        self._timer = timer
        self._waiting: dict[str, dict[int, _Heard]] = {name: {} for name in names}  # in order of arrival
        self._given: set[int] = set()
        self._done: dict[str, float] = {}
        self._after = 0
        self._more = False  # whether the journal may have more waiting events than are held

    @property
    def held(self) -> int:
        """The number of events held in memory."""
        return sum(map(len, self._waiting.values()))

    @property
    def waiting(self) -> int:
        """The number of all waiting events."""
        return self._journal.backlog().get(RELAY, 0) if self._more else self.held

    @property
    def provisional(self) -> int:
        """The number of waiting events that were given to their handlers provisionally."""
        return len(self._given)

    def is_long(self, name: str) -> bool:
        """Whether there are more events of the name than one transaction writes."""
        return len(self._waiting[name]) > MOST_DRAFTS

    def first(self, name: str) -> float | None:
        """When the event of the name that has waited longest was heard; None if none waits."""
        return next((one.at for one in self._waiting[name].values()), None)

    def done(self, name: str) -> float:
        """When the latest event of the name that another node wrote was heard; -infinity if there is none."""
        return self._done.get(name, -math.inf)

    def heard_until(self, name: str, until: float) -> list[str]:
        """The IDs of the events of the name that were heard until then."""
        return [one.id for one in self._waiting[name].values() if one.at <= until]

    def drafts(self, name: str, publisher: str) -> list[Draft]:
        """Drafts of the events that have waited longest, as many as fit into one write, in firing order."""
        drafts: list[Draft] = []
        unusable = []
        longest = islice(self._waiting[name].values(), MOST_DRAFTS)
        for _, identity, entry, event, _ in sorted(longest, key=_order):
            try:
                drafts.append(
                    Draft(
                        body=event.payload,
                        issued=entry.received,
                        publisher=publisher,
                        via="event",
                        id=identity,
                        ltime=event.ltime,
                    )
                )
            except PermanentError as error:
                unusable.append((entry, Outcome.REFUSED, str(error)))
        self._end(unusable)
        return drafts

    # ------------------------------------------------------------------ in and out

    def take(self, find: Callable[[str, Iterable[str]], Mapping[str, int]]) -> None:
        """Take the events that were heard since the last time from the journal.

        Args:
            find: returns which IDs of a name are known to be in the log, with their numbers.
        """
        if self._after and (not self._more or self.held > MOST_AT_ONCE // 2):
            found = self._journal.newest_events(RELAY, self._after, MOST_AT_ONCE)
            self._more = self._more or len(found) == MOST_AT_ONCE
        else:
            found = self._journal.pending(RELAY, MOST_AT_ONCE)
            self._more = len(found) == MOST_AT_ONCE
            if not self._more:
                self._given.intersection_update(entry.seq for entry in found)
        ended = []
        now = self._timer()
        fresh: dict[str, list[_Heard]] = {}
        for entry in found:
            event = entry.change
            if entry.seq in self._waiting.get(getattr(event, "name", ""), ()):
                continue
            if not isinstance(event, Event) or event.undated:
                ended.append((entry, Outcome.EXPIRED, _UNDATED))
            elif event.name not in self._waiting:
                self._provisionally(event)
                ended.append((entry, Outcome.UNCHANGED, _NOT_KEPT))
            else:
                heard = _Heard(event.order, event.id, entry, event, now)
                self._waiting[event.name][entry.seq] = heard
                fresh.setdefault(event.name, []).append(heard)
        self._end(ended)
        self._after = max([self._after, *(entry.seq for entry in found)])
        for name, events in fresh.items():
            self._settle(events, find(name, [one.id for one in events]))

    def settle(self, name: str, known: Mapping[str, int]) -> None:
        """End the events that another node has written; `known` has the numbers of messages by ID."""
        self._settle(self._waiting[name].values(), known)

    def _settle(self, events: Iterable[_Heard], known: Mapping[str, int]) -> None:
        found = [one for one in events if one.id in known]
        self._end((one.entry, Outcome.UNCHANGED, f"already in the log as {known[one.id]}") for one in found)
        for one in found:
            self._done[one.event.name] = max(one.at, self._done.get(one.event.name, one.at))

    def land(self, name: str, landed: Mapping[str, Landed]) -> None:
        """End the events that are in the log after a write of this node; `landed` has their places by ID."""
        self._end(
            (one.entry, Outcome.APPLIED, f"written to the log as {landed[one.id].num}")
            if landed[one.id].written
            else (one.entry, Outcome.UNCHANGED, f"already in the log as {landed[one.id].num}")
            for one in self._waiting[name].values()
            if one.id in landed
        )

    def _end(self, ended: Iterable[tuple[Entry, Outcome, str]]) -> None:
        endings = [Ending(entry, outcome, reason) for entry, outcome, reason in ended]
        if not endings:
            return
        self._journal.end(endings)
        for ending in endings:
            self._waiting.get(getattr(ending.entry.change, "name", ""), {}).pop(ending.entry.seq, None)
            self._given.discard(ending.entry.seq)

    def give(self, names: Collection[str]) -> None:
        """Give the waiting events of these names to their handlers provisionally."""
        if not names:
            return
        for one in self._all():
            if one.entry.seq not in self._given and one.event.name in names:
                self._provisionally(one.event)
                self._given.add(one.entry.seq)

    def shed(self, owed: Collection[str]) -> None:
        """Limit the events held in memory; the others are still in the journal, and are taken again later.

        Args:
            owed: names of which only the events are shed that were given provisionally.
        """
        if self.held <= 2 * MOST_AT_ONCE:
            return
        shed = [
            one
            for one in self._all()[MOST_AT_ONCE:]
            if one.entry.seq in self._given or one.event.name not in owed
        ]
        for one in shed:
            del self._waiting[one.event.name][one.entry.seq]
        self._more = self._more or bool(shed)

    def _all(self) -> list[_Heard]:
        """All held events, in the order of firing as far as it is known."""
        return sorted((one for events in self._waiting.values() for one in events.values()), key=_order)


def _order(heard: _Heard) -> Order:
    return heard.order

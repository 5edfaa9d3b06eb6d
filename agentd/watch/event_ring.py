"""What is remembered of Consul's ring of events, and how the next list is judged by that: a pure function.

Promise 1. The index is opaque. An event is new if its ID was not listed before. Whether events went by unseen
shows by whether the last known ID is still in the ring; how many, by Lamport time. That ticks once for each
event, but once for several that different agents fire in the same moment, and also for events of Consul's own
(each election of a leader); so a count is an estimate. It is taken from the events, or from the agent's own
Lamport clock where there is none, so that a loss is told without waiting for the next event.

Lamport time orders the events of one history. It goes back when Consul's data is lost, and a new epoch begins
then. An agent's clock is later than every event that it listed, and it lists none that is older than that by
more than its buffer, or that it may have had before a restart; so an event that should be impossible shows
that the clock went back, as does an agent with another ID, which is in the data directory. All events that
are new to us then are of the new epoch, so that no event of an old one, however high its time, is ever newer
than what comes now.

An event that cannot be used is never delivered. By its Lamport time, if it has one, it is known not to be
missed.

What has to survive a restart of agentd is `kept`. Events that were listed before we remember anything have no
date: they may be weeks old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agentd.errors import ConsulUnavailable
from agentd.watch.changes import Event, Json, lamport_time
from agentd.watch.client import EventClock
from agentd.watch.judgement import Gap, Inquiry, Verdict
from agentd.watch.query import Snapshot

RING: Final = 256
"""How many events an agent keeps, of all names together."""
_SEEN: Final = 2 * RING
_BUFFER: Final = 512
"""An agent drops an event that is older than its clock by more than this (`EventBuffer` of Serf)."""
_LEAP: Final = 2**32
"""Ticks at once that nobody fired: somebody set the clock of events, as any member of the gossip can."""
_JOINED: Final = 2  # empty lists after which an agent has joined the others


@dataclass(frozen=True, slots=True)
class EventRing:
    """What is remembered of the event ring.

    Attributes:
        seen: IDs, in order of arrival; those in the current ring are the last.
        last: ID of the newest event, "" before the first.
        ltime: the highest Lamport time of this epoch.
        epoch: how often Consul's data was lost.
        clock: the Lamport time up to which everything is accounted for, None if that is not known.
        node: the ID of the agent, which is in its data directory.
        missed: how many events went by unseen, ever.
        dated: whether a list was ever judged, so that what was not in it is younger than that.
        live: whether one was judged since agentd started.
        empty: how many lists in a row were empty, on one connection.
        alone: whether the agent knew no other one at the last of these.
        spare: ticks that are no event: a restarted agent may elect a leader.
        owed: IDs that count as never listed, although `last` came after them; None: those before `last` have
            been handled, or are in the journal.
    """

    index: int = 0
    seen: tuple[str, ...] = ()
    last: str = ""
    ltime: int = 0
    epoch: int = 0
    clock: int | None = None
    node: str = ""
    missed: int = 0
    dated: bool = False
    live: bool = False
    empty: int = 0
    alone: bool = False
    spare: int = 0
    owed: tuple[str, ...] | None = None

    @classmethod
    def restored(cls, kept: Mapping[str, Any] | None) -> EventRing:
        """What an earlier agentd remembered; None for nothing.

        With `owed` it comes from the tree, because the journal was lost: see there.
        """
        if not kept:
            return cls()
        owed = kept.get("owed")
        clock = kept.get("clock")
        return cls(
            last=str(kept["last"]),
            ltime=int(kept["ltime"]),
            epoch=int(kept.get("epoch", 0)),
            clock=None if clock is None else int(clock),
            node=str(kept.get("node", "")),
            missed=int(kept.get("missed", 0)),
            dated=True,
            spare=1,
            owed=None if owed is None else tuple(owed),
        )

    def kept(self) -> dict[str, Any]:
        """What must survive a restart, of JSON's types."""
        names = ("last", "ltime", "epoch", "clock", "node", "missed")
        return {name: getattr(self, name) for name in names}

    @property
    def fresh(self) -> bool:
        """The ring is the local agent's own: no server is asked."""
        return False

    def interrupted(self) -> EventRing:
        """The connection broke: the agent may have been restarted, and may have to join the others first."""
        return replace(self, empty=min(self.empty, 1), spare=1)

    def judge(self, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """Find what was not listed before, what was missed, and whether a new epoch begins."""
        ring: list[Json] = snapshot.answer.raw or []
        if not ring and snapshot.odd:
            return Verdict(replace(self, index=snapshot.index, empty=0))
        verdict = self._judge(ring, snapshot, inquiry) if ring else self._empty(snapshot, inquiry)
        memory = verdict.memory
        if verdict.news or not isinstance(memory, EventRing):
            return verdict
        if memory.dated == self.dated and self.owed is None and memory.kept() == self.kept():
            return verdict
        return replace(verdict, news=replace(snapshot, changes=(), missed=verdict.missed))

    def _judge(self, ring: list[Json], snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        listed: dict[str, int] = {event["ID"]: at for at, event in enumerate(ring)}
        continues = self.last in listed
        old = self._old(listed)
        new = [at for one, at in listed.items() if one not in old]
        times = [lamport_time(ring[at]) for at in new]
        # Not on the way of an event that follows the ones before it: nothing is asked there.
        clock = None if new and self.live and continues else inquiry.clock()
        broken = self._broken(times, clock, continues=continues, full=_is_full(snapshot))
        gap, missed, spare = self._gap(times, snapshot, inquiry, continues=continues, broken=broken)
        newest = max(times, default=0)
        now = replace(
            self,
            index=snapshot.index,
            seen=(*(one for one in self.seen if one not in listed), *listed)[-max(_SEEN, len(listed)) :],
            last=str(ring[-1]["ID"]),
            ltime=newest if broken else max(newest, self.ltime),
            epoch=self.epoch + broken,
            clock=self._accounted(newest, clock, broken=broken),
            node=clock.node if clock else self.node,
            missed=self.missed + missed,
            dated=True,
            live=True,
            empty=0,
            spare=spare,
            owed=None,
        )
        events = self._deliver(snapshot, listed, old, now.epoch)
        news = replace(snapshot, changes=events, missed=missed) if events else None
        return Verdict(now, news, gap=gap, missed=missed)

    def _old(self, listed: Mapping[str, int]) -> frozenset[str]:
        """The listed events that were listed before."""
        if self.live or self.last not in listed:
            return frozenset(self.seen)
        upto = listed[self.last]
        return frozenset(one for one, at in listed.items() if at <= upto) - frozenset(self.owed or ())

    def _broken(self, times: Sequence[int], clock: EventClock | None, *, continues: bool, full: bool) -> bool:
        """Whether the clock of events went back, so that the new events are of a new epoch."""
        if not self.last or not times:
            return False
        if clock is not None and self.node not in ("", clock.node):  # what it joined may be new as well
            return True
        if min(times) > self.ltime:
            return False
        if min(times) + _BUFFER < self.ltime:  # the agent would have dropped it
            return True
        if clock is not None and clock.time <= self.ltime:
            return True
        return not continues and not full  # a restarted agent drops what it may have had before

    def _gap(
        self, times: Sequence[int], snapshot: Snapshot, inquiry: Inquiry, *, continues: bool, broken: bool
    ) -> tuple[Gap | None, int, int]:
        """Why events may be missing, how many, and how many ticks are to spare from here on."""
        if broken:
            return "epoch", 0, 0
        if continues or not times or not self.dated:
            return None, 0, 0
        full = _is_full(snapshot)
        spare = 0 if full else self.spare if self.empty else 1
        until = max(times) + 1
        odd = sum(self._begun(until) <= one.time < until for one in snapshot.odd)
        missed, spare = self._ticks(until, len(times) + odd, spare)
        if missed and _filtered(snapshot, inquiry):
            missed = 0
        told = not missed and (self.empty or not self.last)
        return (None if told else "overflow" if full else "restart"), missed, spare

    def _ticks(self, until: int, events: int, spare: int) -> tuple[int, int]:
        """How many ticks up to `until` are no event that we saw, and how many are still to spare.

        A leap of the clock counts as one: what happened in it cannot be told from it.
        """
        left = max(0, until - self._begun(until) - events)
        if left > _LEAP:
            return 1, 0
        return max(0, left - spare), max(0, spare - left)

    def _begun(self, until: int) -> int:
        """The first tick that is not accounted for."""
        return self.clock or (self.ltime + 1 if self.last else until)

    def _accounted(self, newest: int, clock: EventClock | None, *, broken: bool) -> int:
        known = 0 if broken or self.clock is None else self.clock
        return max(known, newest + 1 if newest else 0, clock.time if clock else 0)

    def _deliver(
        self, snapshot: Snapshot, listed: Mapping[str, int], old: frozenset[str], epoch: int
    ) -> tuple[Event, ...]:
        """The new events, of `epoch`; at the first list also those of before: a handler may be new."""
        everything = not self.live and self.owed is None
        events = []
        for one, at in listed.items():
            event = snapshot.changes[at]
            if isinstance(event, Event) and one not in old:
                events.append(replace(event, epoch=epoch, undated=not self.dated))
            elif isinstance(event, Event) and everything:
                events.append(replace(event, epoch=self.epoch, undated=True))
        return tuple(events)

    def _empty(self, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """An empty ring means that the agent has just started, or that the token may not read events.

        The agent joins the others only after it has begun to answer, so the ticks of two lists count, the
        second at the end of its wait. Later ones are Consul's own, unless the agent joined only then.
        """
        try:
            refused = inquiry.refusal()
        except ConsulUnavailable as error:  # the ring itself needs no server, and must not wait for one
            refused = str(error)
        if refused:
            held = f"event list is empty: {refused}"
            return Verdict(replace(self, index=snapshot.index), held=held, alarming=True)
        clock = inquiry.clock()
        if clock is not None and not inquiry.again().empty:
            clock = None  # an event came in between, and is judged next
        joined = self.alone and clock is not None and not clock.alone
        now = replace(
            self,
            index=snapshot.index,
            dated=True,
            live=True,
            empty=1 if joined else self.empty + 1,  # its clock may follow only after the members that it sees
            alone=self.alone if clock is None else clock.alone,
        )
        told = self.empty or not self.last
        if clock is None:
            return Verdict(now, gap=None if told else "restart")
        missed, spare = 0, self.spare
        if self.dated and (joined or self.empty < _JOINED):
            missed, spare = self._ticks(clock.time, 0, self.spare if self.empty else 1)
        now = replace(now, clock=max(clock.time, self.clock or 0), missed=self.missed + missed, spare=spare)
        return Verdict(now, gap="restart" if missed or not told else None, missed=missed)


def _is_full(snapshot: Snapshot) -> bool:
    return len(snapshot.changes) + len(snapshot.odd) >= RING


def _filtered(snapshot: Snapshot, inquiry: Inquiry) -> bool:
    """Whether the list may lack events that the token may not read, so that nothing can be counted."""
    try:
        return snapshot.answer.filtered_by_acls or inquiry.refusal() is not None
    except ConsulUnavailable:
        return False

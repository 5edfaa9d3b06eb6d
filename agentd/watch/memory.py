"""What a poller remembers of a query, and how it judges the next answer by that: pure, and without a clock.

States (promises 2 and 6). An index that did not move is no news. One that went back has two causes: another
server answered that lags behind, or Consul has a new history (restored, or its data lost). So the answer is
dropped, whatever it says, and the leader is asked for the present one; a laggard can then not bring an old
state back. If the leader says lower too, the history is new: what it has is believed, but that it has nothing
is not, until it has had something, or has passed the index of the old history.

Events (promise 1). The index is opaque. What is new is what was not listed before, by ID; the ring shows
by the last seen ID whether events went by unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from agentd.errors import ConsulUnavailable
from agentd.watch.changes import Event
from agentd.watch.inquiry import Inquiry
from agentd.watch.query import Snapshot

RING: Final = 256
"""Events that an agent keeps, of all names together."""
_SEEN: Final = 2 * RING


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of one answer.

    Attributes:
        memory: what to remember once `news` is delivered.
        news: what to deliver, or None.
        held: why the answer is not believed, or None.
        alarming: whether `held` needs the operator.
        gap: events went by unseen.
        missed: how many, as far as Lamport time tells.
    """

    memory: Memory
    news: Snapshot | None = None
    held: str | None = None
    alarming: bool = False
    gap: Literal["overflow", "restart"] | None = None
    missed: int = 0


class Memory(Protocol):
    """What is asked next (`index`, `fresh`), and the judgement of what came."""

    @property
    def index(self) -> int:
        """The index to ask with; 0 for an answer at once."""

    @property
    def fresh(self) -> bool:
        """Whether the leader must answer."""

    def judge(self, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """Compare with what was seen."""


@dataclass(frozen=True, slots=True)
class StateMemory:
    """Of a state.

    Attributes:
        top: the index of the last answer that was believed or held.
        digest: of the last state delivered; "" if none was.
        full: whether that state was not empty.
        lost: an empty answer is not believed up to this index.
        held: why the last answer was not believed; the next counts then even if its index is the same.
        alarming: whether `held` needs the operator.
    """

    index: int = 0
    fresh: bool = False
    top: int = 0
    digest: str = ""
    full: bool = False
    lost: int = 0
    held: str | None = None
    alarming: bool = False

    def judge(self, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """Compare with the last state.

        Raises:
            ConsulUnavailable: Consul cannot say whether the token may read this.
        """
        if snapshot.index < self.top and not self.fresh:
            return Verdict(replace(self, index=0, fresh=True), held=self.held, alarming=self.alarming)
        lost = self.top if snapshot.index < self.top else self.lost
        now = replace(self, index=snapshot.index, top=snapshot.index, fresh=False, lost=lost, held=None)
        if not snapshot.empty:
            return self._believe(replace(now, lost=0), snapshot)
        if self.digest and not self.full:  # it was empty before
            return Verdict(now)
        if held := self._doubt(lost, snapshot, inquiry):
            reason, alarming = held
            return _hold(now, reason, alarming=alarming)
        return self._prove(now, snapshot, inquiry)

    def _prove(self, now: StateMemory, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """Believe an empty answer that was given between two proofs of the right to read it.

        The right may have come back after the first answer was made: what that one left out is there still.
        """
        if snapshot.index == self.index and not self.held:
            return Verdict(now)
        second = inquiry.again()
        if second.index < now.top:
            return Verdict(replace(self, index=0, fresh=True), held=self.held, alarming=self.alarming)
        if second.empty and (refused := inquiry.refusal()) is not None:
            return _hold(now, f"empty answer held: {refused}", alarming=True)
        return self._believe(replace(now, index=second.index, top=second.index), second)

    def _doubt(self, lost: int, snapshot: Snapshot, inquiry: Inquiry) -> tuple[str, bool] | None:
        """Why this empty answer is not believed, and whether that needs the operator; None if it may be."""
        if snapshot.answer.filtered_by_acls:
            return "empty answer held: Consul says that ACLs filtered it", True
        if not self.digest and self.held and not self.alarming:
            return (
                self.held,
                False,
            )  # asked already; a missing key answers to every write to the whole KV store
        if (refused := inquiry.refusal()) is not None:
            return f"empty answer held: {refused}", True
        if not self.digest:
            return "empty answer held: nothing was ever there since the start", False
        if snapshot.index <= lost:
            return "empty answer held: Consul's index went back, so its data may be lost", True
        return None

    def _believe(self, now: StateMemory, snapshot: Snapshot) -> Verdict:
        """Deliver, unless the index did not move or the content is what was delivered last."""
        if snapshot.index == self.index and not self.held:
            return Verdict(now)
        digest = snapshot.changes[0].digest
        news = None if digest == self.digest else snapshot
        return Verdict(replace(now, digest=digest, full=not snapshot.empty), news)


def _hold(now: StateMemory, held: str, *, alarming: bool) -> Verdict:
    return Verdict(replace(now, held=held, alarming=alarming), held=held, alarming=alarming)


@dataclass(frozen=True, slots=True)
class EventMemory:
    """Of the event ring.

    Attributes:
        seen: IDs, in the order in which they came; the present ring's are the last.
        last: ID of the newest event, "" before the first.
        ltime: the highest Lamport time seen.
        gone: an empty list told already that the ring was lost.
    """

    index: int = 0
    seen: tuple[str, ...] = ()
    last: str = ""
    ltime: int = 0
    gone: bool = False

    @property
    def fresh(self) -> bool:
        """The ring is the local agent's own: no server is asked."""
        return False

    def judge(self, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """Find what was not listed before, and what went by unseen."""
        events = tuple(event for event in snapshot.changes if isinstance(event, Event))
        if not events:
            return self._empty(snapshot, inquiry)
        listed = {event.id: event for event in events}
        before = set(self.seen)
        fresh = tuple(event for event in listed.values() if event.id not in before)
        gap, missed, ltime = self._gap(listed, len(fresh))
        now = EventMemory(
            index=snapshot.index,
            seen=(*(one for one in self.seen if one not in listed), *listed)[-_SEEN:],
            last=events[-1].id,
            ltime=ltime,
        )
        news = replace(snapshot, changes=fresh, gap=gap, missed=missed) if fresh else None
        return Verdict(now, news, gap=None if self.gone and not missed else gap, missed=missed)

    def _gap(
        self, listed: dict[str, Event], fresh: int
    ) -> tuple[Literal["overflow", "restart"] | None, int, int]:
        """Why events are missing, how many (Lamport time ticked once an event), and the time from here on."""
        newest = max(event.ltime for event in listed.values())
        if not self.last or self.last in listed:
            return None, 0, max(newest, self.ltime)
        missed = max(0, newest - self.ltime - fresh)
        return ("overflow" if len(listed) >= RING else "restart"), missed, newest

    def _empty(self, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """An empty ring is that of an agent just started, or of a token that may not read it."""
        now = replace(self, index=snapshot.index, gone=bool(self.last))
        try:
            refused = inquiry.refusal()
        except ConsulUnavailable as error:  # the ring itself needs no server, and must not wait for one
            refused = str(error)
        gap: Literal["restart"] | None = "restart" if self.last and not self.gone else None
        return Verdict(now, held=refused and f"event list is empty: {refused}", alarming=True, gap=gap)

"""What a poller remembers of a state, and how it judges the next answer by that: pure, and without a clock.

Promises 2 and 6. An index that did not move is no news. One that went back has two possible causes:
a server that lags behind answered, or Consul has a new history (restored, or its data was lost). So the
answer is dropped, whatever it says, and the leader is asked instead; thus a lagging server cannot bring back
an old state. If the leader's index is lower too, the history is new: the data in it is believed, but an empty
answer is not, until there was data, or the index has passed that of the old history.

Events are judged in `event_ring`; the words for both are here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from agentd.errors import ConsulError, ConsulRefused, ConsulUnavailable
from agentd.watch.client import EventClock
from agentd.watch.query import Query, Snapshot, Source

if TYPE_CHECKING:
    from agentd.watch.event_ring import EventRing


Gap: TypeAlias = Literal["overflow", "restart", "epoch"]


class Inquiry:
    """Further questions to Consul about one answer to `query`. `beat` is called before each."""

    def __init__(self, query: Query, source: Source, beat: Callable[[], None]) -> None:
        self._query = query
        self._source = source
        self._beat = beat

    def refusal(self) -> str | None:
        """Why Consul says that the token may not read what the query asks for, or None if it may.

        Raises:
            ConsulUnavailable: Consul cannot say now.
        """
        try:
            for resource, access, segment in self._query.needs:
                self._beat()
                if self._source.authorized(resource, access, segment) is False:
                    return f"the token has no right to {access} {resource} {segment!r}"
        except ConsulRefused as error:
            return str(error)
        return None

    def clock(self) -> EventClock | None:
        """The agent's own Lamport clock of events, or None if it does not say."""
        self._beat()
        try:
            return self._source.event_clock()
        except ConsulError:  # without agent:read, or the agent is just starting
            return None

    def again(self) -> Snapshot:
        """The current state as the leader has it, without blocking.

        Raises:
            ConsulError: no answer, or one that says no.
        """
        self._beat()
        return self._query.fetch(self._source, fresh=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of one answer.

    Attributes:
        memory: what to remember once `news` is delivered.
        news: what to deliver, or None.
        held: why the answer is not believed, or None.
        alarming: whether `held` needs the operator.
        gap: why events may have gone by unseen: the ring overflowed, its agent was restarted, or Consul's
            data was lost, so that a new epoch begins.
        missed: how many went by, as far as Lamport time shows.
        absent: the answer, if it is held only because nothing is known to have ever been there; the right to
            read was proved. Set only if `StateMemory.proves_absence`.
    """

    memory: StateMemory | EventRing
    news: Snapshot | None = None
    held: str | None = None
    alarming: bool = False
    gap: Gap | None = None
    missed: int = 0
    absent: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class StateMemory:
    """What is remembered of a state.

    Attributes:
        top: the index of the last answer that was believed or held.
        digest: of the last state delivered; "" if none was.
        full: whether that state was not empty.
        lost: an empty answer is not believed up to this index.
        held: why the last answer was not believed; if so, the next is judged even if its index is the same.
        alarming: whether `held` needs the operator.
        proves_absence: whether somebody takes it for a state that nothing was ever there.
    """

    index: int = 0
    fresh: bool = False
    top: int = 0
    digest: str = ""
    full: bool = False
    lost: int = 0
    held: str | None = None
    alarming: bool = False
    proves_absence: bool = False

    def interrupted(self) -> StateMemory:
        """The connection broke: a state is judged by its index all the same."""
        return self

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
            if self.proves_absence and not (self.digest or alarming or (self.held and not self.alarming)):
                return self._prove_absence(now, reason, inquiry)
            return _hold(now, reason, alarming=alarming)
        return self._prove(now, snapshot, inquiry)

    def _prove(self, now: StateMemory, snapshot: Snapshot, inquiry: Inquiry) -> Verdict:
        """Believe an empty answer that was given between two proofs of the right to read it.

        The right may have been granted after the first answer was made, which then left out what exists.
        """
        if snapshot.index == self.index and not self.held:
            return Verdict(now)
        second = inquiry.again()
        if second.index < now.top:
            return Verdict(replace(self, index=0, fresh=True), held=self.held, alarming=self.alarming)
        if second.empty and (refused := inquiry.refusal()) is not None:
            return _hold(now, f"empty answer held: {refused}", alarming=True)
        return self._believe(replace(now, index=second.index, top=second.index), second)

    def _prove_absence(self, now: StateMemory, held: str, inquiry: Inquiry) -> Verdict:
        """Hold the first answer, an empty one, and say so if there really is nothing; see `_prove`."""
        second = inquiry.again()
        if second.index < now.top:
            return Verdict(replace(self, index=0, fresh=True), held=self.held, alarming=self.alarming)
        now = replace(now, index=second.index, top=second.index)
        if not second.empty:
            return self._believe(now, second)
        if (refused := inquiry.refusal()) is not None:
            return _hold(now, f"empty answer held: {refused}", alarming=True)
        return replace(_hold(now, held, alarming=False), absent=second)

    def _doubt(self, lost: int, snapshot: Snapshot, inquiry: Inquiry) -> tuple[str, bool] | None:
        """Why this empty answer is not believed, and whether that needs the operator; None if it is."""
        if snapshot.answer.filtered_by_acls:
            refused = None
            with suppress(ConsulUnavailable):  # the answer is held in any case
                refused = inquiry.refusal()
            return f"empty answer held: {refused or 'Consul says that ACLs filtered it'}", True
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
        """Deliver, unless the index did not move or the content is the same as last time."""
        if snapshot.index == self.index and not self.held:
            return Verdict(now)
        digest = snapshot.changes[0].digest
        news = None if digest == self.digest else snapshot
        return Verdict(replace(now, digest=digest, full=not snapshot.empty), news)


def _hold(now: StateMemory, held: str, *, alarming: bool) -> Verdict:
    return Verdict(replace(now, held=held, alarming=alarming), held=held, alarming=alarming)

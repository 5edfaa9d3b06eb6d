"""The thread of one configured handler: what it does next, how it is woken, and how it ends.

It takes what the journal holds for its handler; how that is handled, proved and timed stands in the modules
of these names. A worker never talks to Consul, and never writes a file but through the committer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Final

from agentd.apply.attempt import Batch
from agentd.apply.commit import Committer
from agentd.apply.desk import Desk, Heartbeat
from agentd.apply.handling import Handling
from agentd.apply.outcome import Entry, Outcome
from agentd.apply.proving import Proving
from agentd.apply.rows import is_state
from agentd.apply.sources import Sources
from agentd.apply.timing import Timing
from agentd.config import ConfiguredHandler
from agentd.errors import AgentdError
from agentd.handler import Handler
from agentd.options import NginxOptions
from agentd.watch.changes import Event, Notification, Timer

IDLE: Final = 1.0
"""Seconds between two looks at the journal, for what a command line wrote there."""


class Worker:
    """Runs one handler. `start`, then `wake` whenever something may wait; `drain` or `stop`, then `join`.

    Attributes:
        ready: set once the handler's initial files are committed, and changes are taken.
    """

    def __init__(  # noqa: PLR0913 (each is another room's; all named at the one call)
        self,
        configured: ConfiguredHandler,
        *,
        committer: Committer,
        nginx: NginxOptions | None,
        provers: Sequence[str],
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.time,
        sources: Sources | None = None,
    ) -> None:
        self.name = configured.name
        self.ready = threading.Event()
        self._desk = Desk(
            configured,
            committer=committer,
            nginx=nginx,
            provers=provers,
            heartbeat=heartbeat,
            clock=clock,
            sources=sources,
        )
        self._handling = Handling(self._desk)
        self._proving = Proving(self._desk, self._handling)
        self._timing = Timing(self._desk, self._handling)
        self._holds = type(self._desk.handler).hold is not Handler.hold
        self._supersedes = type(self._desk.handler).superseded is not Handler.superseded
        self._judged: frozenset[str] = frozenset()
        self._wake = threading.Event()
        self._draining = False
        self._held = False
        self._troubles = 0
        self._thread = threading.Thread(target=self._run, name=f"handler {self.name}", daemon=True)

    def initial(self) -> Batch:
        """What nginx needs of this handler before any change came.

        Raises:
            Exception: whatever the handler raises, bugs included.
        """
        batch = self._desk.batch()
        context = batch.context(self._desk.clock(), self._desk.log)
        self._desk.caller.call(lambda: self._desk.handler.initial(context))
        return batch

    def begin(self) -> None:
        """The initial files are committed: take changes from now on."""
        self.ready.set()
        self.wake()

    def start(self) -> None:
        """Start the thread; it waits for `begin`."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the journal now."""
        self._wake.set()

    def drain(self) -> None:
        """End once nothing waits that could be handled now, or is held for a moment."""
        self._draining = True
        self._wake.set()

    def stop(self) -> None:
        """End after the call in hand; the programs that it runs are ended."""
        self._desk.stop.set()
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; False if it still runs after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        while not self._desk.stop.is_set():
            self._wake.clear()
            wait = self._turn_safely()
            if self._draining and wait > 0 and not self._held:
                break
            if wait > 0:
                self._wake.wait(min(wait, IDLE))
        self._desk.caller.close()

    def _turn_safely(self) -> float:
        """One turn; nothing that goes wrong in it may end the thread."""
        self._desk.beat()
        self._held = False
        try:
            wait = self._turn()
        except Exception as error:
            self._troubles += 1
            wait = self._desk.backoff.delay(self._troubles)
            trace = not isinstance(error, AgentdError)  # what agentd raises itself speaks for itself
            self._desk.log.error("worker.failed", reason=str(error), retry_in=round(wait, 1), exc_info=trace)  # noqa: TRY400 (as said)
            return wait
        self._troubles = 0
        return wait

    def _turn(self) -> float:
        """Do what can be done now. Returns the seconds until the next look, 0 for at once."""
        if self._desk.caller.busy:  # one handler object serves one call at a time
            return IDLE
        if not self.ready.is_set():
            return IDLE
        now = self._desk.clock()
        waiting = self._desk.journal.pending(self.name)
        wait = self._take(waiting, now) if waiting else IDLE
        if wait <= 0:
            self._timing.ask_again()
            return 0.0
        if any(
            isinstance(entry.change, Timer) for entry in waiting
        ):  # timed work that could not be committed
            return wait
        return min(wait, self._timing.turn(now))

    # ------------------------------------------------------------------ what waits

    def _take(self, waiting: list[Entry], now: float) -> float:
        """Take what is ripe of it. Returns the seconds until something is, 0 if something was taken."""
        told = [entry for entry in waiting if isinstance(entry.change, Notification)]
        if told:
            return self._hold_until(
                told[-1].not_before, now, at_once=_rolls_back(told[-1])
            ) or self._take_told(told)
        waiting = self._newest(waiting)
        wait = self._hold_until(waiting[0].not_before, now)
        if not self._held and self._end_superseded(waiting, now):
            return 0.0
        if wait:
            return wait
        ripe = list(takewhile(lambda entry: entry.not_before <= now, waiting))
        self._handling.take(self._fresh(ripe, now))
        return 0.0

    def _take_told(self, told: list[Entry]) -> float:
        self._proving.take(told)
        return 0.0

    def _hold_until(self, not_before: float, now: float, *, at_once: bool = False) -> float:
        """Seconds until it is time and, unless `at_once`, the handler holds no longer; 0 to go ahead."""
        if not_before > now:
            return not_before - now
        if not self._holds or at_once:
            return 0.0
        context = self._desk.batch().context(now, self._desk.log)
        held = self._desk.caller.call(lambda: self._desk.handler.hold(now, context))
        self._held = held > 0
        return max(0.0, held)

    def _newest(self, waiting: list[Entry]) -> list[Entry]:
        """All but the states that a newer one of the same query makes void."""
        last = {entry.change.query: entry.seq for entry in waiting}
        void = [
            entry for entry in waiting if is_state(entry.change) and entry.seq != last[entry.change.query]
        ]
        self._desk.end(void, Outcome.EXPIRED, "a newer state came")
        return _without(waiting, void)

    def _end_superseded(self, waiting: list[Entry], now: float) -> bool:
        """End the events that the handler says another one makes void; False if there are none."""
        if not self._supersedes:
            return False
        # A replay has an id of its own.
        entries = {entry.id: entry for entry in waiting if entry.id == entry.change.id}
        events = [entry.change for entry in entries.values() if isinstance(entry.change, Event)]
        ids = frozenset(event.id for event in events)
        if ids <= self._judged:
            return False
        self._judged = ids
        context = self._desk.batch().context(now, self._desk.log)
        found = self._desk.caller.call(lambda: self._desk.handler.superseded(events, context))
        void = [entries[one] for one in ids & found.keys()]
        for entry in void:
            self._desk.end([entry], Outcome.EXPIRED, f"superseded by {found[entry.id]}")
        return bool(void)

    def _fresh(self, entries: list[Entry], now: float) -> list[Entry]:
        """All but those that waited too long."""
        limit = self._desk.entry.expire_after
        if limit is None:
            return entries
        old = [entry for entry in entries if now - entry.received > limit]
        self._desk.end(old, Outcome.EXPIRED, f"waited longer than {limit:g} s")
        return _without(entries, old)


def _rolls_back(entry: Entry) -> bool:
    """Whether it tells of a generation that was taken back: nothing is to join that."""
    return isinstance(entry.change, Notification) and entry.change.rollback


def _without(entries: list[Entry], gone: list[Entry]) -> list[Entry]:
    seqs = {entry.seq for entry in gone}
    return [entry for entry in entries if entry.seq not in seqs]

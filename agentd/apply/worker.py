"""The thread of one configured handler: what it does next, how it is woken, and how it ends.

It takes what the journal holds for its handler and decides the order; the attempt does the rest. A worker
never talks to Consul, and never writes a file except through the committer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import Final

from agentd.apply.accounting import Accounting
from agentd.apply.attempts import Attempt, Attempts, Pause
from agentd.apply.batch import Batch
from agentd.apply.convergence import Convergence
from agentd.apply.notifications import Notifications
from agentd.apply.pausing import Pausing
from agentd.apply.rollout_steps import RolloutSteps
from agentd.apply.timers import Timers
from agentd.apply.verification import Verification
from agentd.errors import AgentdError, BadKey, HandlerError, JournalError, NoFleetKey
from agentd.handler import Handler
from agentd.journal.entry import SUPERSEDED_BY, Entry, Outcome
from agentd.journal.journal import SUPERSEDED
from agentd.journal.pauses import Paused
from agentd.journal.rows import is_state
from agentd.nginx.inputs import Inputs
from agentd.watch.changes import Event, Notification, Timer

_STEPS: Final = 3  # of timed work at a time while changes wait
IDLE: Final = 1.0
"""Seconds between two looks at the journal, for what a command wrote there."""


class Worker:
    """Runs one handler. `start`, then `wake` when something may be waiting; `drain` or `stop`, then `join`.

    `pause` returns why it is to take nothing new, or None.

    Attributes:
        ready: set once the handler's initial files are committed and it takes changes.
    """

    def __init__(
        self,
        attempts: Attempts,
        convergence: Convergence | None = None,
        pause: Callable[[], Paused | None] = lambda: None,
    ) -> None:
        self.name = attempts.name
        self.ready = threading.Event()
        self._attempts = attempts
        self._notifications = Notifications(self._attempts)
        self._timers = Timers(self._attempts)
        self._verification = Verification(self._attempts)
        self._accounting = Accounting(self._attempts)
        self._pausing = Pausing(self._attempts, pause)
        self._steps = RolloutSteps(self._attempts)
        self._convergence = convergence or Convergence(self._attempts, (), lambda: Inputs("", 0.0))
        self._supersedes = type(self._attempts.handler).superseded is not Handler.superseded
        self._judged: frozenset[str] = frozenset()
        self._wake = threading.Event()
        if attempts.tasks:
            attempts.tasks.wake = self._wake.set
        self._settling: list[threading.Event] = []
        self._over = False
        self._draining = False
        self._troubles = 0
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name=f"handler {self.name}", daemon=True)

    def initial(self) -> Batch:
        """What nginx needs from this handler before any change has arrived.

        Raises:
            Exception: whatever the handler raises, bugs included.
        """
        attempt = self._attempts.begin()
        attempt.do(self._attempts.handler.initial)
        return attempt.batch

    def begin(self) -> None:
        """The initial files are committed: take changes from now on."""
        self.ready.set()
        self.wake()

    @property
    def recalled(self) -> bool:
        """Whether `initial` has got back everything in force; see `Context.recall`."""
        return self._attempts.recalled

    @property
    def payload_life(self) -> float | None:
        """Seconds for which the handler lets payloads be kept, or None."""
        return self._attempts.handler.payload_life

    @property
    def paused(self) -> Paused | None:
        """Why the handler takes nothing new; None if it does."""
        return self._pausing.known

    @property
    def next_due(self) -> float | None:
        """Unix time of the handler's next timed work, or None."""
        return self._timers.next_due

    @property
    def timer_trouble(self) -> str:
        """Why the handler's timed work failed the last time, or "" if it did not."""
        return self._timers.trouble

    def start(self) -> None:
        """Start the thread; it waits for `begin`."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the journal now; does not wait."""
        self._attempts.entered.clear()
        self._wake.set()

    def wait_until_entered(self, deadline: float) -> None:
        """Wait until the handler has been entered with what woke it, or there is nothing for it.

        Otherwise the caller would compete for the interpreter with the worker, which needs it more.

        Args:
            deadline: monotonic seconds.
        """
        if threading.current_thread() is not self._thread:
            self._attempts.entered.wait(max(0.0, deadline - time.monotonic()))

    def settle(self) -> threading.Event:
        """Do now what is waiting and the timed work, whenever that is due; does not wait.

        Returns:
            Set once there is nothing left that can be done now, and at the latest when the thread ends.
        """
        done = threading.Event()
        self._settling.append(done)
        if self._over:
            done.set()
        self._wake.set()
        return done

    def drain(self) -> None:
        """End once nothing is left that could be handled now or is only held back for a moment."""
        self._draining = True
        self._wake.set()

    def stop(self) -> None:
        """End after the call in progress; programs that it is running are ended."""
        self._attempts.stop.set()
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; False if it is still running after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        while not self._attempts.stop.is_set():
            self._wake.clear()
            pause = self._settle()
            if pause is None:
                continue
            self._attempts.entered.set()
            if self._draining and not pause.held:
                break
            self._wake.wait(min(pause.seconds, IDLE))
        self._over = True
        for done in self._settling:
            done.set()
        self._attempts.calls.close()
        if self._attempts.tasks:
            self._attempts.tasks.close()

    def _settle(self) -> Pause | None:
        """One step; when nothing is left to do, whoever asked to `settle` before it is told."""
        asked = list(self._settling)
        if asked:
            self._timers.ask_again()
        pause = self.step()
        if pause is not None:
            for done in asked:
                self._settling.remove(done)
                done.set()
        return pause

    def step(self) -> Pause | None:
        """Do what can be done now; no error may end the thread.

        Returns:
            How long there is nothing to do; None if something was done, so that there may be more to do.
        """
        self._attempts.beat()
        try:
            pause = self._step()
        except Exception as error:
            self._troubles += 1
            wait = self._attempts.backoff.delay(self._troubles)
            trace = not isinstance(error, AgentdError)  # what agentd raises itself speaks for itself
            self._attempts.log.error(  # noqa: TRY400 (as said)
                "worker.failed", reason=str(error), retry_in=round(wait, 1), exc_info=trace
            )
            return Pause(wait)
        self._troubles = 0
        return pause

    def _step(self) -> Pause | None:
        # One handler object serves one call at a time, and a call that timed out may still run.
        if self._attempts.calls.busy or not self.ready.is_set():
            return Pause(IDLE)
        now = self._now()
        if self._verification.overdue(now):
            self._verification.run(now)
        paused = self._pausing.look()
        waiting = self._waiting(paused)
        news = self._task_ended()
        uncommitted = any(isinstance(entry.change, Timer) for entry in waiting)  # it is what waits
        if not uncommitted and (self._timers.overdue(now) or (news and waiting)):
            for _ in range(_STEPS):
                if self._timers.run(now) > 0:
                    break
            return None
        pause = self._take(waiting, now) if waiting else Pause(IDLE)
        if pause is None:
            self._timers.ask_again()
            self._convergence.ask_again()
            return None
        if uncommitted:
            return pause
        converging = () if paused else (self._convergence,)
        for later in (self._timers, *converging, self._verification, self._accounting):
            due_in = later.run(now)
            if due_in <= 0:
                return None
            pause = Pause(min(pause.seconds, due_in), pause.held)
        return pause

    def _now(self) -> float:
        """Unix time; once it was set back, what was put off to a time far ahead now is tried at once."""
        now = self._attempts.clock()
        if now < self._looked:
            self._attempts.journal.resume()
            for later in (self._timers, self._convergence, self._verification, self._accounting):
                later.ask_again()
        self._looked = now
        return now

    def _waiting(self, paused: bool) -> list[Entry]:  # noqa: FBT001 (a value, not a switch)
        """What may be taken now; the tasks of changes that have ended are forgotten."""
        attempts = self._attempts
        if paused:
            return attempts.journal.inside(self.name)
        if missing := attempts.states.missing():
            with suppress(JournalError):  # timed work and checks go on, on a full disk as well
                attempts.journal.hold(self.name, f"waits for {', '.join(missing)}")
            return attempts.journal.inside(self.name)
        waiting = attempts.journal.pending(self.name)
        attempts.aside &= {entry.seq for entry in waiting}
        if attempts.tasks:
            attempts.tasks.keep_only({entry.id for entry in waiting})
        return waiting

    def _task_ended(self) -> bool:
        """Whether `due` can take what it waits for."""
        news = self._attempts.tasks is not None and self._attempts.tasks.news()
        if news:
            self._timers.ask_again()
        return news

    # ------------------------------------------------------------------ what waits

    def _take(self, waiting: list[Entry], now: float) -> Pause | None:
        """Take what can be handled at `now`. Returns how long there is nothing; None if it took something."""
        notifications = [entry for entry in waiting if isinstance(entry.change, Notification)]
        if notifications:
            return self._notifications.take(notifications, now)
        waiting = self._newest(waiting)
        # A state that has failed before does not hold up what arrived since.
        waiting = [entry for entry in waiting if not (entry.again and entry.not_before > now)] or waiting
        free = self._free(waiting, now)
        ripe = list(takewhile(lambda entry: entry.not_before <= now, free))
        is_asked_for = any(not isinstance(entry.change, Timer) for entry in ripe)
        attempt = self._attempts.begin(mend=is_asked_for) if ripe else None
        if attempt and (pause := attempt.hold(now)):
            return pause
        if self._supersedes and not self.paused and self._end_superseded(waiting, attempt, now):
            return None
        if self._steps.settle(waiting, ripe):
            return None
        if not ripe:
            later = [entry.not_before - now for entry in waiting if entry.not_before > now]
            return Pause(min(later, default=IDLE))
        ripe = self._fresh(ripe, now)
        # What cannot be undone is recorded before anything else is begun.
        self._attempts.take(ripe[:1] if self._attempts.handler.side_effects else ripe, attempt)
        return None

    def _free(self, waiting: list[Entry], now: float) -> list[Entry]:
        """Those that wait neither for a task nor for the time to repeat one; nor are timed work for later."""
        attempts, tasks = self._attempts, self._attempts.tasks
        later = {
            one.seq
            for one in waiting
            if one.not_before > now and (one.seq in attempts.aside or isinstance(one.change, Timer))
        }
        if tasks:
            aside = [one for one in waiting if one.seq in attempts.aside and one.seq not in later]
            ready = tasks.ready([one.id for one in aside])
            later.update(one.seq for one in aside if one.id not in ready)
        return [one for one in waiting if one.seq not in later]

    def _newest(self, waiting: list[Entry]) -> list[Entry]:
        """All except states that are replaced by a newer one of the same query."""
        last = {entry.change.query: entry.seq for entry in waiting}
        old = [entry for entry in waiting if is_state(entry.change) and entry.seq != last[entry.change.query]]
        self._attempts.end(old, Outcome.EXPIRED, SUPERSEDED)
        return _without(waiting, old)

    def _end_superseded(self, waiting: list[Entry], attempt: Attempt | None, now: float) -> bool:
        """End the events that are superseded according to the handler. Returns whether there were any.

        What supersedes them may be far behind them. What is too old to be handled supersedes nothing.
        """
        waiting = [*waiting, *self._attempts.journal.newest_events(self.name, waiting[-1].seq)]
        entries = {
            entry.id: entry
            for entry in waiting
            if _may_be_superseded(entry) and not self._too_old(entry, now)
        }
        ids = frozenset(entries)
        if ids <= self._judged:
            return False
        self._judged = ids
        handler = self._attempts.handler
        events = list(self._opened(entries.values()))
        found = (attempt or self._attempts.begin()).ask(lambda context: handler.superseded(events, context))
        old = [entries[one] for one in ids & found.keys()]
        for entry in old:
            self._attempts.end([entry], Outcome.EXPIRED, f"{SUPERSEDED_BY}{found[entry.id]}")
        return bool(old)

    def _opened(self, entries: Iterable[Entry]) -> Iterator[Event]:
        """The events, without those that cannot be opened: that is told when they are handled.

        Each has the ID of its entry: an event may wait both as it was heard and as the log has it.
        """
        for entry in entries:
            if isinstance(entry.change, Event):
                with suppress(HandlerError, NoFleetKey, BadKey):
                    event = self._attempts.opened(entry.change)
                    yield replace(event, raw=event.raw | {"ID": entry.id})

    def _fresh(self, entries: list[Entry], now: float) -> list[Entry]:
        """All except those that are too old, which end here."""
        ages = {entry.seq: self._too_old(entry, now) for entry in entries}
        for reason in filter(None, dict.fromkeys(ages.values())):
            old = [entry for entry in entries if ages[entry.seq] == reason]
            self._attempts.end(old, Outcome.EXPIRED, reason)
        return [entry for entry in entries if not ages[entry.seq]]

    def _too_old(self, entry: Entry, now: float) -> str:
        """Why it has waited too long, or may have, since nobody knows how long; "" if it has not.

        What was begun in time, and waited for a task since then, has not.
        """
        if is_state(entry.change) or entry.seq in self._attempts.aside:
            return ""
        if _is_over(entry, now):
            return "its publisher gave it a time to live, which is over"
        limit = self._attempts.entry.expire_after
        if limit is None:
            return ""
        if now - _counts_from(entry) > limit:
            return f"waited longer than {limit:g} s"
        if isinstance(entry.change, Event) and entry.change.undated:
            return f"of unknown age, and expire_after is {limit:g} s"
        return ""


def _without(entries: list[Entry], gone: list[Entry]) -> list[Entry]:
    seqs = {entry.seq for entry in gone}
    return [entry for entry in entries if entry.seq not in seqs]


def _may_be_superseded(entry: Entry) -> bool:
    """Whether it is an event, and not one that somebody replayed.

    A replay has another ID than its change; so has a message whose event was heard before the log had it.
    """
    if not isinstance(entry.change, Event):
        return False
    message = entry.change.message
    return not message.replayed if message else entry.id == entry.change.id


def _is_over(entry: Entry, now: float) -> bool:
    """Whether it is a message of the fleet's log that must not be applied any more."""
    message = entry.change.message if isinstance(entry.change, Event) else None
    return message is not None and message.expires is not None and message.expires <= now


def _counts_from(entry: Entry) -> float:
    """Since when it waits, unix time: of a message also the time before this node came to see it."""
    message = entry.change.message if isinstance(entry.change, Event) else None
    return min(message.counts_from, entry.received) if message else entry.received

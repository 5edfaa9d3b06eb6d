"""One attempt: a batch of one handler, from the handler's call to its commit, its retry or its refusal.

A change that fails for now holds back the ones behind it, since their order may matter; a refused one does
not. A batch that nginx refuses is attempted again one change at a time, so that only the bad one is refused.
If nothing can be committed at all (nginx's configuration is broken elsewhere, the disk is full), or the key
that opens a sealed change is missing, changes wait and no attempt is counted. Which changes are attempted,
and when, is the worker's decision.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog

from agentd.accounts import Accounts
from agentd.apply.batch import Batch, Kept
from agentd.apply.commit import Committer
from agentd.apply.concealing import concealed
from agentd.apply.joint_states import JointStates
from agentd.apply.tasks import MOST_ASIDE, TIMED, HandlerTasks
from agentd.apply.timed_call import TimedCalls, TimedOut
from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.config.load import ConfiguredHandler
from agentd.errors import (
    AgentdError,
    BadKey,
    JournalError,
    NoFleetKey,
    PermanentError,
    TemporaryError,
    TreeError,
    UnderWay,
)
from agentd.handler import Context, Handler, Log
from agentd.heartbeat import Heartbeat
from agentd.journal.commits import Overtaken
from agentd.journal.entry import Ending, Entry, Outcome
from agentd.journal.plan import Plan
from agentd.options import NginxOptions
from agentd.sources.fetcher import Sources
from agentd.watch.changes import Change, Event, Notification, Timer

T = TypeVar("T")
_BEAT: Final = 30.0
_AT_ONCE: Final = 1.0  # seconds for which changes join a batch: timed work, and what supersedes them, waits
_SOONEST: Final = 0.1
_LATEST: Final = 86400.0
_BLOCKED: Final = Backoff(1.0, 10.0)
_log = structlog.get_logger()


def _settled(names: Sequence[str]) -> Sequence[str]:  # noqa: ARG001 (the interface)
    """Where there are no other handlers."""
    return ()


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing can be done for this many seconds.

    Attributes:
        held: whether the handler asked for it, so that later changes can join the waiting ones.
    """

    seconds: float
    held: bool = False


class Attempts:
    """The attempts of one configured handler, all made from one thread.

    Args:
        provers: the configured handlers that prove a generation live.
        heartbeat: the thread's own.
        clock: unix seconds.
        sources: what the handler may fetch.
        told_by: those of the provers that notify this handler.
        verifiers: those of the handlers that this one notifies that verify, and do not prove.
        settle: has these handlers do what they can do now; returns those that did not do it in time.
        accounts: where to put what the handler tells the fleet; None: it is not asked.
        opened: returns an event with its payload, if that came sealed. Raises PermanentError if it must not
            be applied; NoFleetKey or BadKey if it waits for a key, or for what opens it.
        mend: whether drift is mended, or only told.
        recall: see `Context.recall`; and whether everything in force is among it.

    Attributes:
        stop: set when the thread should end after the call in progress.
        entered: set when the handler has been entered with a change, or there is none; see `Worker.wake`.
        tasks: what the handler has done outside its calls; None where it may fetch nothing.
        states: its states, for a handler that is joint.
        aside: the changes that wait, or have waited, for a task, so that the others go on without them: the
            number of each entry.
        recalled: whether the handler has got back everything in force.
    """

    def __init__(  # noqa: PLR0913 (each is another room's; all named at the one call)
        self,
        configured: ConfiguredHandler,
        *,
        committer: Committer,
        nginx: NginxOptions | None,
        provers: Sequence[str],
        heartbeat: Heartbeat,
        clock: Callable[[], float] = unix_time,
        sources: Sources | None = None,
        told_by: Sequence[str] = (),
        verifiers: Sequence[str] = (),
        settle: Callable[[Sequence[str]], Sequence[str]] = _settled,
        accounts: Accounts | None = None,
        mend: bool = True,
        opened: Callable[[Event], Event] = lambda event: event,
        recall: Callable[[], tuple[Sequence[Event], bool]] = lambda: ((), False),
    ) -> None:
        self.name = configured.name
        self.entry = configured.entry
        self.handler = configured.build()
        self.committer = committer
        self.journal = committer.journal
        self.provers = tuple(provers)
        self.told_by = tuple(told_by)
        own = type(self.handler).verify is not Handler.verify
        self.verifiers = (self.name, *verifiers) if own else tuple(verifiers)
        self.clock = clock
        self.stop = threading.Event()
        self.entered = threading.Event()
        self.log: Log = _log.bind(handler=self.name)
        self.backoff = Backoff(configured.entry.retry.first, configured.entry.retry.longest)
        self.calls = TimedCalls(self.name, self.entry.timeout, beat=self.beat, observer=committer.observer)
        self.blocked = 0
        self.tasks = self._tasks(sources)
        self.states = JointStates(configured, committer.journal)
        self.aside: set[int] = set()
        self._apart = (
            0  # the last change of a batch that could not be rendered: up to there, each is by itself
        )
        self.accounts = accounts
        self.mend = mend
        self.opened = opened
        self.recall = recall
        self.recalled = False
        self._nginx = nginx or NginxOptions()
        self._heartbeat = heartbeat
        self._sources = sources
        self._settle = settle

    def _tasks(self, sources: Sources | None) -> HandlerTasks | None:
        if sources is None:
            return None
        seconds = sources.options.total_timeout + self.entry.timeout
        return HandlerTasks(self.name, sources, seconds, self.log, self.committer.observer)

    def beat(self, good_for: float = _BEAT) -> None:
        """The thread is alive, and will say so again within `good_for` seconds."""
        self._heartbeat.beat(good_for)

    def beat_for_commit(self) -> None:
        """The same, before a commit: that copies files, and runs up to two checks."""
        self.beat(2 * self._nginx.timeout + 2 * _BEAT)

    def settle_told(self) -> None:
        """Have the handlers that this one notifies look now: a reload may undo what they see."""
        late = self._settle(self.entry.notify) if self.entry.notify else ()
        if late:
            self.log.warning("proof.not_awaited", handlers=list(late))

    def ask_for_proof(self, batch: Batch) -> None:
        """Notify the handler itself, if it proves and a call asked for a reload outside of a notification.

        So there is one path to a reload: those whom it notifies look before, and are told afterwards.
        """
        if not (batch.reload and self.handler.proves) or self.journal.pending(self.name):
            return
        generation = batch.stage.generation
        raw = {"id": f"again-{generation}", "generation": generation, "by": self.name, "paths": []}
        self.journal.queue(self.name, Notification("notify", raw | {"rollback": False}))
        self.committer.observer.notified((self.name,))

    def begin(self, *, mend: bool = True) -> Attempt:
        """A new attempt, based on what is current, which is restored before if it is damaged.

        `mend` is False for what no change asks for: then it is only restored if drift is to be mended.
        """
        # The revision is read first, so that anything that changes after it is noticed at the commit.
        revision = self.committer.commits.revision(self.name)
        stage = self.committer.tree.stage(self.name, mend=mend or self.mend)
        batch = Batch(
            handler=self.name,
            stage=stage,
            store=self.journal.store(self.name, self.handler.store_format),
            store_format=self.handler.store_format,
            nginx=self._nginx,
            generation=stage.generation,
            timeout=self.entry.timeout,
            revision=revision,
            stop=self.stop,
            started=self.clock(),
            sources=self._sources,
            states=self.states,
        )
        return Attempt(self, batch)

    def take(self, entries: Sequence[Entry], attempt: Attempt | None = None) -> bool:
        """Handle entries, as many as there is time for, and commit them together, in `attempt` or a new one.

        Returns:
            Whether the changes behind them may proceed.
        """
        attempt = attempt or self.begin()
        together = len(entries) > 1 and entries[0].seq > self._apart
        go_on, end = True, time.monotonic() + _AT_ONCE
        for entry in entries:
            try:
                go_on = attempt.handle(entry, render=not together)
            except TimedOut as error:
                # Its thread may still write into the batch, so nothing of the batch is committed.
                attempt.retry(entry, error)
                return False
            if not go_on or self.stop.is_set() or time.monotonic() > end:
                break
        if together and not attempt.render():
            self._apart = entries[-1].seq
            return False
        return attempt.commit() and go_on

    def end(self, entries: Sequence[Entry], outcome: Outcome, reason: str = "", began: float = 0.0) -> None:
        """Close entries that are not part of a commit; `began` is the unix time of their attempt, if any."""
        now = self.clock()
        self.committer.end(
            [
                Ending(
                    entry,
                    outcome,
                    reason,
                    duration=max(0.0, now - (began or now)),
                    waited=max(0.0, now - entry.received),
                )
                for entry in entries
            ]
        )


class Attempt:
    """One batch and all that becomes of it; made by `Attempts.begin`."""

    def __init__(self, attempts: Attempts, batch: Batch) -> None:
        self.batch = batch
        self._attempts = attempts

    # ------------------------------------------------------------------ the handler's calls

    def hold(self, now: float) -> Pause | None:
        """How long the handler holds back what is waiting; None to go ahead."""
        if type(self._attempts.handler).hold is Handler.hold:
            return None
        seconds = self.ask(lambda context: self._attempts.handler.hold(now, context))
        return Pause(seconds, held=True) if seconds > 0 else None

    def ask(self, question: Callable[[Context], T], *, mend: bool = True) -> T:
        """Ask the handler something; whatever it stages in doing so is dropped. `mend`: see `Context`."""
        context = self.batch.context(self._attempts.clock(), self._attempts.log, mend=mend)
        try:
            return self._attempts.calls.call(lambda: question(context))
        finally:
            self.batch.drop()

    def do(self, work: Callable[[Context], T]) -> T:
        """Let the handler do what no change asked for; what it stages is part of the attempt."""
        attempts = self._attempts
        tasks = attempts.tasks.of(TIMED) if attempts.tasks else None
        context = self.batch.context(attempts.clock(), attempts.log, mend=attempts.mend, tasks=tasks)
        done = attempts.calls.call(lambda: self._with_recall(work, context))
        if attempts.tasks and tasks:
            attempts.tasks.keep_timed(tasks.asked)
        return done

    def _with_recall(self, work: Callable[[Context], T], context: Context) -> T:
        secrets: list[bytes] = []

        def recall() -> Sequence[Event]:
            found, self._attempts.recalled = self._attempts.recall()
            secrets.extend(event.payload for event in found)
            return found

        try:
            return work(replace(context, recall=recall))
        except Exception:
            with concealed(b"\0".join(secrets) or None):
                raise

    def call(self, entry: Entry, *, render: bool = True) -> str | None:
        """Hand the entry to the handler and keep it in the batch.

        Args:
            entry: what waits.
            render: whether this is the only change of the batch, or each is to be rendered by itself.

        Returns:
            What the handler returned: why there was nothing to prove (see `Handler.handle`).

        Raises:
            PermanentError: refused.
            TemporaryError: not now; also for a bug in the handler, once its traceback is logged.
            TreeError, JournalError: agentd itself has a problem.
            NoFleetKey, BadKey: the change came sealed, and cannot be opened yet.
        """
        attempts = self._attempts
        now = attempts.clock()
        context = self.batch.context(
            now,
            _log.bind(handler=attempts.name, change=entry.id),
            mend=attempts.mend or not isinstance(entry.change, Timer),
            last_attempt=entry.attempts + 1 >= attempts.entry.retry.attempts,
            tasks=attempts.tasks.of(TIMED if isinstance(entry.change, Timer) else entry.id)
            if attempts.tasks
            else None,
            place=entry.seq,
            overtakes=min((seq for seq in attempts.aside if seq < entry.seq), default=None),
        )
        note: str | None = None
        try:
            if isinstance(entry.change, Timer):
                attempts.calls.call(lambda: attempts.handler.due(now, context))
            else:
                change = entry.change
                if isinstance(change, Event):  # the entry stays sealed: it may go to the journal again
                    change = attempts.opened(change)
                if attempts.handler.side_effects:
                    attempts.journal.begin(entry.seq)
                secret = change.payload if isinstance(change, Event) and change is not entry.change else None
                note = attempts.calls.call(lambda: self._enter(change, context, secret, render=render))
            self.batch.keep(entry)
        except AgentdError:
            raise
        except Exception as error:
            _log.exception(
                "handler.crashed", handler=attempts.name, change=entry.id, attempt=entry.attempts + 1
            )
            raise TemporaryError(f"bug in the handler: {type(error).__name__}: {error}") from error
        return note

    def _enter(self, change: Change, context: Context, secret: bytes | None, *, render: bool) -> str | None:
        self._attempts.entered.set()
        if isinstance(change, Event):
            _ = change.payload  # what is not base64 is refused, also where it is handed on as it is
        with concealed(secret):
            note = self._attempts.handler.handle(change, context)
            if render:
                self._attempts.handler.render(self.batch.for_next(context))
            return note

    def render(self) -> bool:
        """Have the handler render what the changes of the batch left.

        Returns:
            Whether it did. If not, nothing of the batch may be committed.
        """
        attempts = self._attempts
        if all(kept.refused is not None for kept in self.batch.kept):
            return True
        context = self.batch.context(attempts.clock(), attempts.log)
        try:
            attempts.calls.call(lambda: attempts.handler.render(context))
            if attempts.handler.joint:
                self.batch.keep_joint()
        except Exception as error:  # noqa: BLE001 (each change by itself meets it again, and is told of it)
            # Not its text, which may quote what came sealed.
            attempts.log.info("handler.one_by_one", changes=len(self.batch.kept), error=type(error).__name__)
            return False
        return True

    def handle(self, entry: Entry, *, render: bool) -> bool:
        """Call the handler with one change, and deal with anything but success. `render`: see `call`.

        Returns:
            Whether the changes behind it may proceed.

        Raises:
            TimedOut: the call is still running.
        """
        try:
            self.call(entry, render=render)
        except PermanentError as error:
            self.batch.refuse(entry, str(error))
        except TimedOut:
            raise
        except UnderWay as error:
            return self._set_aside(entry, error)
        except TemporaryError as error:
            self.batch.drop()
            return not self.retry(entry, error)
        except (TreeError, NoFleetKey, BadKey) as error:
            self.batch.drop()
            self._wait([entry], error)
            return entry.seq in self._attempts.aside
        return True

    def _set_aside(self, entry: Entry, error: UnderWay) -> bool:
        """The entry waits for a task, and the others go on."""
        attempts = self._attempts
        if entry.seq not in attempts.aside and len(attempts.aside) >= MOST_ASIDE and not _is_message(entry):
            # A message is not refused for that: the nodes that had room for it apply it.
            reason = f"{MOST_ASIDE} changes of this handler already wait for downloads; try again later"
            self.batch.refuse(entry, reason)
            return True
        self.batch.drop()
        attempts.aside.add(entry.seq)
        attempts.journal.defer([entry.seq], str(error), 0.0, failed=False)
        return True

    # ------------------------------------------------------------------ the commit

    def commit(self) -> bool:
        """Commit the batch. Returns whether the changes behind it may proceed."""
        attempts = self._attempts
        entries = [kept.entry for kept in self.batch.kept]
        try:
            self.record(entries, self._end_or_commit)
        except Overtaken as error:
            attempts.log.info("handler.overtaken", reason=str(error))
            return False
        except PermanentError as error:
            return self._one_by_one(error)
        except (TemporaryError, TreeError) as error:
            return self._without_aside(entries, error)
        attempts.blocked = 0
        return True

    def _end_or_commit(self) -> None:
        attempts = self._attempts
        if self.batch.clean:
            for kept in self.batch.kept:
                self.end([kept.entry], _outcome_without_commit(kept), kept.refused or "")
            return
        attempts.beat_for_commit()
        attempts.committer.commit(self.batch.stage, self._plan(), attempts.beat_for_commit)

    def record(self, entries: Sequence[Entry], write: Callable[[], T]) -> T:
        """Write down what came of a call: for a handler with side effects again and again, until it works.

        Otherwise its program would run again and again for as long as the disk is full.

        Raises:
            Exception: whatever `write` raises, if the call may be repeated or agentd is stopping.
        """
        attempts = self._attempts
        while True:
            try:
                return write()
            except (JournalError, TreeError, TemporaryError) as error:
                if not attempts.handler.side_effects or attempts.stop.is_set():
                    raise
                attempts.blocked += 1
                wait = _BLOCKED.delay(attempts.blocked)
                attempts.log.warning(
                    "handler.unrecorded",
                    changes=[entry.id for entry in entries],
                    retry_in=round(wait, 1),
                    reason=str(error),
                )
                with suppress(JournalError):
                    reason = f"done, but that cannot be recorded yet: {error}"
                    attempts.journal.defer([entry.seq for entry in entries], reason, 0.0, failed=False)
            attempts.beat()
            attempts.stop.wait(wait)

    def _plan(self) -> Plan:
        attempts, batch = self._attempts, self.batch
        done = [kept for kept in batch.kept if kept.refused is None]
        notify = (*attempts.entry.notify, *(attempts.told_by if batch.reload else ()))
        return Plan(
            handler=attempts.name,
            seqs=tuple(kept.entry.seq for kept in done if kept.changed),
            unchanged=tuple(kept.entry.seq for kept in done if not kept.changed),
            ran=tuple(kept.entry.seq for kept in done if kept.ran),
            refused=tuple((kept.entry.seq, kept.refused) for kept in batch.kept if kept.refused is not None),
            store=batch.new_store,
            revision=batch.revision,
            notify=notify,
            proved_by=tuple(name for name in notify if name in attempts.provers),
            verified_by=attempts.verifiers,
            started=batch.started,
        )

    def _without_aside(self, entries: Sequence[Entry], error: AgentdError) -> bool:
        """A download may be the one thing that is too large for the disk: commit the others without it."""
        attempts = self._attempts
        others = [
            entry
            for entry in entries
            if entry.seq not in attempts.aside and not isinstance(entry.change, Timer)
        ]
        if len(others) in (0, len(entries)) or attempts.stop.is_set():
            self._wait(entries, error)
            return False
        self._wait([entry for entry in entries if entry not in others], error)
        return attempts.take(others)

    def _one_by_one(self, error: PermanentError) -> bool:
        """Find the change that the check rejects."""
        if len(self.batch.kept) == 1:
            self.end([self.batch.kept[0].entry], Outcome.REFUSED, str(error))
            return True
        attempts = self._attempts
        return all(not attempts.stop.is_set() and attempts.take([kept.entry]) for kept in self.batch.kept)

    # ------------------------------------------------------------------ what becomes of an entry

    def retry(
        self, entry: Entry, error: TemporaryError, *, forever: bool = False, known: bool = False
    ) -> bool:
        """Postpone the entry after a failed attempt; the log says so unless it is `known`.

        Returns:
            Whether it holds back the changes behind it until it is retried (always with `forever`). If not,
            it failed, or it had failed before and is tried again beside them.
        """
        return self.record([entry], lambda: self._retry(entry, error, forever=forever, known=known))

    def _retry(self, entry: Entry, error: TemporaryError, *, forever: bool, known: bool) -> bool:
        attempts = self._attempts
        if attempts.stop.is_set():  # the end of the daemon cut it short, which is not the change's fault
            attempts.journal.defer([entry.seq], str(error), 0.0, failed=False)
            return True
        if attempts.tasks:
            attempts.tasks.forget(entry.id)
        attempt = entry.attempts + 1
        last = attempt >= attempts.entry.retry.attempts or error.retry_after == math.inf
        if last and not forever and not entry.again:
            self.end([entry], Outcome.FAILED, f"{error} (attempt {attempt}, the last)")
            return False
        wait = attempts.backoff.delay(attempt) if error.retry_after is None else error.retry_after
        wait = min(max(wait, _SOONEST), _LATEST)
        attempts.journal.defer([entry.seq], str(error), attempts.clock() + wait, failed=True)
        attempts.committer.observer.retried(attempts.name)
        tell = attempts.log.debug if known else attempts.log.warning
        tell("handler.retry", change=entry.id, attempt=attempt, retry_in=round(wait, 1), reason=str(error))
        return not entry.again and entry.seq not in attempts.aside

    def end(self, entries: Sequence[Entry], outcome: Outcome, reason: str = "") -> None:
        """Close entries of this attempt that are not part of a commit."""
        self._attempts.end(entries, outcome, reason, self.batch.started)

    def _wait(self, entries: Sequence[Entry], error: AgentdError) -> None:
        """Nothing can be done with them now, which is not the changes' fault: no attempt is counted."""
        attempts = self._attempts
        attempts.blocked += 1
        wait = _BLOCKED.delay(attempts.blocked)
        attempts.journal.defer(
            [entry.seq for entry in entries], f"waits: {error}", attempts.clock() + wait, failed=False
        )
        attempts.log.warning(
            "handler.waiting", changes=len(entries), retry_in=round(wait, 1), reason=str(error)
        )


def _is_message(entry: Entry) -> bool:
    return isinstance(entry.change, Event) and entry.change.message is not None


def _outcome_without_commit(kept: Kept) -> Outcome:
    if kept.refused is not None:
        return Outcome.REFUSED
    return Outcome.APPLIED if kept.ran else Outcome.UNCHANGED

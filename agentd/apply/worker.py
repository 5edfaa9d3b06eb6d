"""The thread of one configured handler: order, batch, timeout, retry, outcome.

It takes what the journal holds for its handler, in the order of arrival, into one commit. A change that fails for
now holds back those behind it, since their order may matter; one that is refused does not. What waits for a
commit that cannot be made (nginx's configuration broken by somebody else, disk full) waits without counting attempts.
A worker never talks to Consul, and never writes a file but through the committer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, Protocol

import structlog

from agentd.apply.attempt import Batch, LeftBehind, limited
from agentd.apply.commit import Committer
from agentd.apply.journal import Plan
from agentd.apply.outcome import Ending, Entry, Outcome
from agentd.backoff import Backoff
from agentd.config import ConfiguredHandler
from agentd.errors import AgentdError, PermanentError, TemporaryError, TreeError
from agentd.handler import Context, Log
from agentd.options import NginxOptions
from agentd.watch.changes import Notification, Timer

IDLE: Final = 1.0
"""Seconds between two looks at the journal, for what a command line wrote there."""
_BLOCKED: Final = 10.0
_BEAT: Final = 30.0


class Heartbeat(Protocol):
    """Says that a thread is alive."""

    def beat(self, good_for: float) -> None:
        """Alive now, and to be believed for `good_for` seconds."""


class _Next(Enum):
    GO_ON = auto()
    STOP = auto()
    DROP = auto()


class Worker:
    """Runs one handler. `start`, then `wake` whenever something may wait; `drain` or `stop`, then `join`."""

    def __init__(  # noqa: PLR0913 (each is another room's; all named at the one call)
        self,
        configured: ConfiguredHandler,
        *,
        committer: Committer,
        nginx: NginxOptions | None,
        provers: Sequence[str],
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = configured.name
        self.ready = threading.Event()
        self._entry = configured.entry
        self._handler = configured.build()
        self._committer = committer
        self._journal = committer.journal
        self._observer = committer.observer
        self._nginx = nginx or NginxOptions()
        self._provers = tuple(provers)
        self._heartbeat = heartbeat
        self._clock = clock
        self._log: Log = structlog.get_logger().bind(handler=self.name)
        self._backoff = Backoff(configured.entry.retry.first, configured.entry.retry.longest)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._draining = False
        self._left_behind: threading.Thread | None = None
        self._due_at: float | None = 0.0
        self._due_for = -1
        self._troubles = 0
        self._thread = threading.Thread(target=self._run, name=f"handler {self.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the journal now."""
        self._wake.set()

    def drain(self) -> None:
        """End once nothing waits that could be handled now."""
        self._draining = True
        self._wake.set()

    def stop(self) -> None:
        """End after the call in hand."""
        self._stop.set()
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; False if it still runs after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the loop

    def _run(self) -> None:
        while not self._stop.is_set():
            self._beat()
            try:
                wait = self._turn() if self.ready.is_set() else self._begin_work()
                self._troubles = 0
            except Exception as error:  # nothing that goes wrong here may end the thread
                self._troubles += 1
                wait = self._backoff.delay(self._troubles)
                self._log.error(
                    "worker.failed", error=str(error), retry_in=round(wait, 1), exc_info=not isinstance(error, AgentdError)
                )
            if self._draining and (wait > 0 or not self.ready.is_set()):
                return
            if wait > 0 and self._wake.wait(min(wait, IDLE)):
                self._wake.clear()

    def _beat(self) -> None:
        self._heartbeat.beat(_BEAT)

    def _begin_work(self) -> float:
        """Let the handler stage what nginx needs before any change; the first commit makes the tree exist."""
        batch = self._batch()
        self._call(lambda: self._handler.initial(batch.context(self._clock(), self._log)))
        self._committer.commit(batch.stage, self._plan(batch))
        self.ready.set()
        return 0.0

    def _turn(self) -> float:
        """Do what can be done now. Returns the seconds until the next look, 0 for at once."""
        now = self._clock()
        waiting = self._journal.pending(self.name)
        if waiting:
            self._wake.clear()
            return self._take(waiting, now)
        if self._due_for != self._committer.tree.current or (self._due_at is not None and self._due_at <= now):
            return self._do_due(now)
        return IDLE if self._due_at is None else min(IDLE, max(0.001, self._due_at - now))

    def _take(self, waiting: list[Entry], now: float) -> float:
        told = [entry for entry in waiting if isinstance(entry.change, Notification)]
        if told:
            return self._take_notifications(told, now)
        ripe = _until(waiting, lambda entry: entry.not_before > now)
        if not ripe:
            return max(0.001, waiting[0].not_before - now)
        held = self._handler.hold(now, self._batch().context(now, self._log))
        if held > 0:
            return held
        self._work(self._fresh(ripe, now))
        self._due_for = -1
        return 0.0

    def _fresh(self, entries: list[Entry], now: float) -> list[Entry]:
        limit = self._entry.expire_after
        if limit is None:
            return entries
        old = [entry for entry in entries if now - entry.received > limit]
        self._committer.end([self._ending(entry, Outcome.EXPIRED, f"waited longer than {limit:g} s") for entry in old])
        return [entry for entry in entries if now - entry.received <= limit]

    # -- changes

    def _work(self, entries: list[Entry]) -> None:
        """Handle entries in order into one commit."""
        batch = self._batch()
        for entry in entries:
            verdict = self._handle(batch, entry)
            if verdict is _Next.DROP:
                return
            if verdict is _Next.STOP or self._stop.is_set():
                break
        if batch.kept:
            self._commit(batch)

    def _handle(self, batch: Batch, entry: Entry) -> _Next:
        mark = batch.mark()
        try:
            self._attempt(batch, entry)
        except PermanentError as error:
            batch.reset(mark)
            self._committer.end([self._ending(entry, Outcome.REFUSED, str(error), batch)])
            return _Next.GO_ON
        except LeftBehind as error:
            self._left_behind = error.thread
            self._later(entry, error, batch)
            return _Next.DROP
        except TemporaryError as error:
            batch.reset(mark)
            return self._later(entry, error, batch)
        except Exception as error:  # a bug in the handler
            self._log.error("handler.crashed", change=entry.id, attempt=entry.attempts + 1, exc_info=True)
            batch.reset(mark)
            return self._later(entry, TemporaryError(f"bug in the handler: {type(error).__name__}: {error}"), batch)
        changed = batch.mark() != mark
        if not changed and batch.clean:
            self._committer.end([self._ending(entry, Outcome.APPLIED if batch.ran else Outcome.UNCHANGED, "", batch)])
        else:
            batch.kept.append((entry, changed))
        return _Next.GO_ON

    def _attempt(self, batch: Batch, entry: Entry) -> None:
        now = self._clock()
        log = self._log.bind(change=entry.id) if hasattr(self._log, "bind") else self._log
        context = batch.context(now, log)
        if isinstance(entry.change, Timer):
            self._call(lambda: self._handler.due(now, context))
        else:
            self._call(lambda: self._handler.handle(entry.change, context))

    def _later(self, entry: Entry, error: TemporaryError, batch: Batch) -> _Next:
        attempt = entry.attempts + 1
        owed = self._handler.proves and isinstance(entry.change, Notification)
        if attempt >= self._entry.retry.attempts and not owed:
            reason = f"{error} (attempt {attempt}, the last)"
            self._committer.end([self._ending(entry, Outcome.FAILED, reason, batch)])
            return _Next.GO_ON
        wait = self._backoff.delay(attempt) if error.retry_after is None else error.retry_after
        self._observer.retry(self.name)
        self._journal.defer([entry.seq], str(error), self._clock() + wait, failed=True)
        self._log.warning("handler.retry", change=entry.id, attempt=attempt, retry_in=round(wait, 1), reason=str(error))
        return _Next.STOP

    def _commit(self, batch: Batch) -> None:
        try:
            self._committer.commit(batch.stage, self._plan(batch))
        except PermanentError as error:
            if len(batch.kept) == 1:
                self._committer.end([self._ending(batch.kept[0][0], Outcome.REFUSED, str(error), batch)])
                return
            for entry, _ in batch.kept:  # so that only the bad one is refused
                self._work([entry])
        except (TemporaryError, TreeError) as error:
            self._wait_for_commit(batch, error)

    def _wait_for_commit(self, batch: Batch, error: AgentdError) -> None:
        self._troubles += 1
        wait = min(_BLOCKED, self._backoff.delay(self._troubles))
        seqs = [entry.seq for entry, _ in batch.kept]
        self._journal.defer(seqs, f"waits: {error}", self._clock() + wait, failed=False)
        self._log.warning("handler.waiting", changes=len(seqs), retry_in=round(wait, 1), reason=str(error))

    # -- notifications

    def _take_notifications(self, told: list[Entry], now: float) -> float:
        """Handle the newest; those before it are merged into it."""
        newest = told[-1]
        if newest.not_before > now:
            return newest.not_before - now
        held = self._handler.hold(now, self._batch().context(now, self._log))
        if held > 0:
            return held
        if not self._handler.proves:
            self._end_merged(told, Outcome.UNCHANGED)
            self._work([newest])
            return 0.0
        with self._committer.still():
            self._prove(told)
        return 0.0

    def _prove(self, told: list[Entry]) -> None:
        newest, batch = told[-1], self._batch()
        try:
            self._attempt(batch, newest)
        except PermanentError as error:
            self._disprove(told, error, batch)
        except LeftBehind as error:
            self._left_behind = error.thread
            self._later(newest, error, batch)
        except TemporaryError as error:
            self._later(newest, error, batch)
        else:
            self._observer.reloaded("proved", self._clock() - batch.started)
            self._committer.prove(batch.generation)
            self._end_merged(told, Outcome.APPLIED)
            self._committer.end([self._ending(newest, Outcome.APPLIED, "", batch)])

    def _disprove(self, told: list[Entry], error: PermanentError, batch: Batch) -> None:
        newest = told[-1]
        self._observer.reloaded("failed", self._clock() - batch.started)
        rolled_back = isinstance(newest.change, Notification) and newest.change.rollback
        back = None if rolled_back else self._committer.disprove(str(error), self._provers)
        if back is None:  # nothing to go back to: the reload stays owed
            self._later(newest, TemporaryError(str(error)), batch)
            return
        self._log.error("generation.rolled_back", generation=batch.generation, to=back, reason=str(error))
        self._end_merged(told, Outcome.FAILED)
        self._committer.end([self._ending(newest, Outcome.FAILED, str(error), batch)])

    def _end_merged(self, told: list[Entry], outcome: Outcome) -> None:
        merged = f"merged into {told[-1].id}"
        self._observer.reloads_merged(len(told) - 1)
        self._committer.end([self._ending(entry, outcome, merged) for entry in told[:-1]])

    # -- timed work

    def _do_due(self, now: float) -> float:
        """Let the handler do what is due; what it stages is committed and journalled like a change."""
        batch = self._batch()
        context = batch.context(now, self._log)
        self._due_for, self._due_at = self._committer.tree.current, now + _BLOCKED  # should it raise
        self._due_at = self._call(lambda: self._handler.due(now, context))
        if not batch.clean:
            entry = self._journal.owe(self.name, Timer("timer", {"at": now}))
            batch.kept.append((entry, True))
            self._due_at = now
            self._commit(batch)
            return 0.0
        return 0.001 if self._due_at is not None else IDLE

    # -- pieces

    def _call(self, call: Callable[[], float | None]) -> float | None:
        if self._left_behind is not None and self._left_behind.is_alive():
            raise TemporaryError("the call before, which ran out of time, has still not returned")
        self._left_behind = None
        began = time.monotonic()
        try:
            return self._limited(call)
        finally:
            self._observer.handled(self.name, time.monotonic() - began)

    def _limited(self, call: Callable[[], float | None]) -> float | None:
        return limited(call, self._entry.timeout, name=f"handler {self.name} call", beat=self._beat)

    def _batch(self) -> Batch:
        tree = self._committer.tree
        return Batch(
            handler=self.name,
            stage=tree.stage(self.name),
            store=self._journal.store(self.name),
            nginx=self._nginx,
            generation=tree.current,
            timeout=self._entry.timeout,
            stop=self._stop,
            started=self._clock(),
        )

    def _plan(self, batch: Batch) -> Plan:
        return Plan(
            handler=self.name,
            seqs=tuple(entry.seq for entry, changed in batch.kept if changed),
            unchanged=tuple(entry.seq for entry, changed in batch.kept if not changed),
            store=batch.new_store,
            notify=self._entry.notify,
            proved_by=tuple(name for name in self._entry.notify if name in self._provers),
            started=batch.started,
        )

    def _ending(self, entry: Entry, outcome: Outcome, reason: str, batch: Batch | None = None) -> Ending:
        now = self._clock()
        return Ending(
            entry,
            outcome,
            reason,
            duration=max(0.0, now - batch.started) if batch else 0.0,
            waited=max(0.0, now - entry.received),
        )


def _until(entries: list[Entry], stop: Callable[[Entry], bool]) -> list[Entry]:
    """The entries before the first for which `stop` is true."""
    at = next((at for at, entry in enumerate(entries) if stop(entry)), len(entries))
    return entries[:at]


__all__ = ["Context", "Worker"]

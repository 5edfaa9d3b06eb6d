"""What all the work of one configured handler shares: its batches, its calls, its retries, its endings.

It decides nothing about order: `handling`, `proving` and `timing` do, on the worker's one thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from agentd.apply.attempt import Batch
from agentd.apply.call import Caller
from agentd.apply.commit import Committer
from agentd.apply.outcome import Ending, Entry, Outcome
from agentd.apply.plan import Plan
from agentd.apply.sources import Sources
from agentd.backoff import Backoff
from agentd.config import ConfiguredHandler
from agentd.errors import AgentdError, TemporaryError
from agentd.handler import Log
from agentd.options import NginxOptions
from agentd.watch.changes import Timer

_BEAT: Final = 30.0
_SOONEST: Final = 0.1
_LATEST: Final = 86400.0
_log = structlog.get_logger()


class Heartbeat(Protocol):
    """Says that a thread is alive."""

    def beat(self, good_for: float) -> None:
        """Alive now, and to be believed for `good_for` seconds."""


class Desk:
    """One configured handler at work, from one thread.

    Args:
        provers: the configured handlers that prove a generation live.
        clock: unix seconds.
        sources: what the handler may fetch.

    Attributes:
        stop: set when the worker is to end after the call in hand.
    """

    def __init__(  # noqa: PLR0913 (each is another room's; all named at the one call)
        self,
        configured: ConfiguredHandler,
        *,
        committer: Committer,
        nginx: NginxOptions | None,
        provers: Sequence[str],
        heartbeat: Heartbeat,
        clock: Callable[[], float],
        sources: Sources | None = None,
    ) -> None:
        self.name = configured.name
        self.entry = configured.entry
        self.handler = configured.build()
        self.committer = committer
        self.journal = committer.journal
        self.provers = tuple(provers)
        self.clock = clock
        self.stop = threading.Event()
        self.log: Log = _log.bind(handler=self.name)
        self.backoff = Backoff(configured.entry.retry.first, configured.entry.retry.longest)
        self.caller = Caller(self.name, self.entry.timeout, beat=self.beat, observer=committer.observer)
        self._nginx = nginx or NginxOptions()
        self._heartbeat = heartbeat
        self._sources = sources

    # ------------------------------------------------------------------ signs of life

    def beat(self) -> None:
        """Alive; the next sign comes within seconds."""
        self._heartbeat.beat(_BEAT)

    def beat_for_commit(self) -> None:
        """Alive; a commit checks up to twice, and copies."""
        self._heartbeat.beat(2 * self._nginx.timeout + 2 * _BEAT)

    # ------------------------------------------------------------------ a batch

    def batch(self) -> Batch:
        """A new, empty batch on what is current."""
        # The ground is read first: whatever moves after it is noticed at the commit.
        ground = self.committer.ledger.ground(self.name)
        tree = self.committer.tree
        return Batch(
            handler=self.name,
            stage=tree.stage(self.name),
            store=self.journal.store(self.name),
            nginx=self._nginx,
            generation=tree.current,
            timeout=self.entry.timeout,
            ground=ground,
            stop=self.stop,
            started=self.clock(),
            sources=self._sources,
        )

    def commit(self, batch: Batch) -> None:
        """Commit the batch; raises as `Committer.commit` does."""
        self.beat_for_commit()
        self.committer.commit(batch.stage, self._plan(batch), self.beat_for_commit)

    def _plan(self, batch: Batch) -> Plan:
        done = [kept for kept in batch.kept if kept.refused is None]
        return Plan(
            handler=self.name,
            seqs=tuple(kept.entry.seq for kept in done if kept.changed),
            unchanged=tuple(kept.entry.seq for kept in done if not kept.changed),
            ran=tuple(kept.entry.seq for kept in done if kept.ran),
            refused=tuple((kept.entry.seq, kept.refused) for kept in batch.kept if kept.refused is not None),
            store=batch.new_store,
            ground=batch.ground,
            notify=self.entry.notify,
            proved_by=tuple(name for name in self.entry.notify if name in self.provers),
            started=batch.started,
        )

    # ------------------------------------------------------------------ one call

    def attempt(self, batch: Batch, entry: Entry) -> None:
        """Hand the entry to the handler and keep it in the batch.

        Raises:
            PermanentError: refused.
            TemporaryError: not now; a bug in the handler is one, too, once its traceback is logged.
            TreeError, JournalError: agentd's own trouble.
        """
        now = self.clock()
        context = batch.context(
            now,
            _log.bind(handler=self.name, change=entry.id),
            last_attempt=entry.attempts + 1 >= self.entry.retry.attempts,
        )
        try:
            if isinstance(entry.change, Timer):
                self.caller.call(lambda: self.handler.due(now, context))
            else:
                self.caller.call(lambda: self.handler.handle(entry.change, context))
            batch.keep(entry)
        except AgentdError:
            raise
        except Exception as error:
            _log.exception("handler.crashed", handler=self.name, change=entry.id, attempt=entry.attempts + 1)
            raise TemporaryError(f"bug in the handler: {type(error).__name__}: {error}") from error

    # ------------------------------------------------------------------ what becomes of an entry

    def retry(self, entry: Entry, error: TemporaryError, batch: Batch, *, owed: bool = False) -> bool:
        """Put the entry off after a failed attempt; `owed` is never given up.

        Returns:
            Whether it is tried again; if not, that was the last attempt, and it ended as failed.
        """
        if self.stop.is_set():  # the end of the daemon cut it short, which is not the change's fault
            self.journal.defer([entry.seq], str(error), 0.0, failed=False)
            return True
        attempt = entry.attempts + 1
        hopeless = attempt >= self.entry.retry.attempts or error.retry_after == math.inf
        if hopeless and not owed:
            self.end([entry], Outcome.FAILED, f"{error} (attempt {attempt}, the last)", batch)
            return False
        wait = self.backoff.delay(attempt) if error.retry_after is None else error.retry_after
        wait = min(max(wait, _SOONEST), _LATEST)
        self.committer.observer.retry(self.name)
        self.journal.defer([entry.seq], str(error), self.clock() + wait, failed=True)
        self.log.warning(
            "handler.retry", change=entry.id, attempt=attempt, retry_in=round(wait, 1), reason=str(error)
        )
        return True

    def end(
        self, entries: Sequence[Entry], outcome: Outcome, reason: str = "", batch: Batch | None = None
    ) -> None:
        """Close entries that are part of no commit."""
        now = self.clock()
        began = batch.started if batch else now
        self.committer.end(
            [
                Ending(
                    entry,
                    outcome,
                    reason,
                    duration=max(0.0, now - began),
                    waited=max(0.0, now - entry.received),
                )
                for entry in entries
            ]
        )

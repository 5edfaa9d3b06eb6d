"""What the daemon reports about the engine's work: a canonical log line per outcome, metrics, gauges."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from agentd.journal.entry import Ending, Outcome
from agentd.journal.journal import SUPERSEDED, Journal
from agentd.journal.limit import Trimmed
from agentd.report.gauges import Condition, QueryView
from agentd.report.metrics import Metrics
from agentd.watch.changes import Change, Event

_log = structlog.get_logger()

_SELDOM: Final = 60.0  # seconds between two messages that a full journal dropped history


class Reporter(Metrics):
    """Logs and counts what the engine reports.

    Args:
        queries: see `Metrics`.
        journal: holds the handlers' stores, and so their gauges.
        wake: has the named handlers look into their mailboxes.
        behind: see `Metrics`.
        fleet: see `Metrics`.
        condition: see `Metrics`.
        changed: called when something ended, was rolled back, or was verified.
        timer: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 (the daemon's callables, all named or in the order of Metrics)
        self,
        queries: Callable[[], Iterable[QueryView]],
        journal: Journal,
        wake: Callable[[Sequence[str]], None],
        behind: Callable[[], Mapping[str, float | None]] = dict,
        fleet: Callable[[], Mapping[str, Any] | None] = lambda: None,
        *,
        condition: Callable[[], Condition] | None = None,
        changed: Callable[[], None] = lambda: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(queries, behind=behind, fleet=fleet, condition=condition)
        self._journal = journal
        self._wake = wake
        self._changed = changed
        self._journal_over = False
        self._timer = timer
        self._say_at = -math.inf
        self._unsaid: Counter[str] = Counter()  # what the journal dropped since it was said last

    def received(self, change: Change) -> None:
        """Count it, if it is an event."""
        if isinstance(change, Event):
            self.event_received(change.name)

    def notified(self, handlers: Sequence[str]) -> None:
        """Wake them."""
        self._wake(handlers)

    def ended(self, ending: Ending) -> None:
        """Write the canonical line of an outcome, and count it."""
        entry, change = ending.entry, ending.entry.change
        is_routine = ending.outcome in (Outcome.APPLIED, Outcome.UNCHANGED) or ending.reason == SUPERSEDED
        tell = _log.info if is_routine else _log.warning
        tell(
            f"handler.{ending.outcome}",
            handler=entry.handler,
            query=change.query,
            change=entry.id,
            attempt=entry.attempts + 1,
            generation=ending.generation,
            paths=list(ending.paths),
            duration=round(ending.duration, 4),
            waited=round(ending.waited, 4),
            reason=ending.reason,
        )
        self.outcome(entry.handler, ending.outcome)
        if ending.outcome is Outcome.APPLIED:
            self.applied(entry.handler, ending.waited)
        if ending.outcome is Outcome.REFUSED and isinstance(change, Event):
            self.event_refused(change.name)
        self._changed()

    def stored(self, handlers: Collection[str]) -> None:
        """Show their gauges."""
        for handler in handlers:
            self.publish_gauges(handler)

    def drifted(self, handler: str, standing: int, mended: int) -> None:
        """Count it."""
        super().drifted(handler, standing, mended)
        self._changed()

    def rolled_back(self) -> None:
        """Count it."""
        super().rolled_back()
        self._changed()

    def paused(self, handler: str, *, since: float | None) -> None:
        """Show it, here and to the fleet."""
        super().paused(handler, since=since)
        self._changed()

    def trimmed(self, trimmed: Trimmed) -> None:
        """Say what was dropped, once a minute at most, and once that it was not enough; count it."""
        super().trimmed(trimmed)
        self._unsaid.update(history=trimmed.rows, payloads=trimmed.payloads, waiting=len(trimmed.endings))
        if self._unsaid.total() and (trimmed.endings or self._timer() >= self._say_at):
            _log.warning("journal.trimmed", **self._unsaid, size=trimmed.size, max_size=trimmed.most)
            self._unsaid.clear()
            self._say_at = self._timer() + _SELDOM
        if trimmed.over and not self._journal_over:
            _log.error(
                "journal.too_large",
                size=trimmed.size,
                max_size=trimmed.most,
                advice="see what waits (`agentd status`), whether another process keeps the file open"
                " (`fuser`), or raise journal.max_size",
            )
        self._journal_over = trimmed.over

    def publish_gauges(self, handler: str) -> None:
        """Show the `gauges` of the handler's store."""
        gauges = self._journal.store(handler).get("gauges")
        if isinstance(gauges, Mapping):
            self.gauged(handler, gauges)

"""From a change to the mailboxes of the handlers that want it; the mailbox is the journal.

A poller calls `deliver` and learns nothing but that it is written down: JournalError makes it ask again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from agentd.apply.journal import Journal
from agentd.config import ConfiguredHandler, OnEvent
from agentd.report.log import digest
from agentd.watch.changes import Change, Event
from agentd.watch.queries import EventQuery, Snapshot

EVERY: Final = "*"
_GIVE_WAY: Final = (
    0.002  # seconds for the woken workers, who would else share the interpreter with the next poll
)
_EVENTS: Final = str(EventQuery())
_log = structlog.get_logger()


class Count(Protocol):
    """What the dispatcher counts."""

    def received(self, change: Change) -> None:
        """A change came that is new, or that no handler takes."""

    def missed(self, events: int) -> None:
        """So many events were lost before Consul could list them."""


@dataclass(frozen=True, slots=True)
class Route:
    """One item of a handler's `on:`; `event` is None for a state."""

    handler: str
    query: str
    event: str | None = None

    def takes(self, change: Change) -> bool:
        """Whether the change is for this route."""
        if isinstance(change, Event):
            return self.event is not None and self.event in (EVERY, change.name)
        return self.query == change.query


def routes(handlers: Iterable[ConfiguredHandler]) -> tuple[Route, ...]:
    """All routes of a configuration."""
    return tuple(
        Route(handler.name, str(on.query()), on.event if isinstance(on, OnEvent) else None)
        for handler in handlers
        for on in handler.entry.on
    )


class Dispatcher:
    """Writes what pollers deliver into the journal, and wakes the workers that got something."""

    def __init__(
        self,
        journal: Journal,
        routes: Collection[Route],
        *,
        wake: Callable[[Collection[str]], None],
        count: Count,
    ) -> None:
        self._journal = journal
        self._routes = routes
        self._wake = wake
        self._count = count

    def deliver(self, snapshot: Snapshot) -> None:
        """Owe each change of the snapshot, in one transaction, to every handler that takes it.

        Raises:
            JournalError: nothing of the snapshot was written down.
        """
        owed = [(change, self._takers(change)) for change in snapshot.changes]
        news = self._journal.receive(owed, listed=_listed(snapshot))
        self._wake({name for _, names in news for name in names})
        if news:
            time.sleep(_GIVE_WAY)
        self._count.missed(snapshot.missed)
        for change, takers in owed:
            if not takers:
                self._count.received(change)
        for change, takers in news:
            self._count.received(change)
            _say(change, takers)

    def _takers(self, change: Change) -> list[str]:
        return list(dict.fromkeys(route.handler for route in self._routes if route.takes(change)))


def _listed(snapshot: Snapshot) -> list[str] | None:
    return [str(event["ID"]) for event in snapshot.answer.raw or ()] if snapshot.query == _EVENTS else None


def _say(change: Change, takers: list[str]) -> None:
    if isinstance(change, Event):
        _log.info(
            "event.received",
            event_name=change.name,
            change=change.id,
            payload=digest(change.payload),
            handlers=takers,
        )
    else:
        _log.info("state.received", query=change.query, change=change.id, handlers=takers)

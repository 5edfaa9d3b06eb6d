"""Puts each change into the mailboxes of the handlers that want it; the mailboxes are in the journal.

A poller calls `deliver`, and learns only whether the change is in the journal: if not, it asks Consul again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from agentd.apply.commit import EVENTS
from agentd.apply.observer import Observer
from agentd.config.load import ConfiguredHandler, OnEvent
from agentd.digest import digest
from agentd.errors import PermanentError
from agentd.journal.entry import RELAY, Ending, Outcome
from agentd.journal.followed import Followed
from agentd.journal.journal import Journal
from agentd.watch.changes import Change, Event
from agentd.watch.query import Snapshot

EVERY: Final = "*"
_NO_RELAY: Final = "this node no longer relays: the handlers got the event directly"
_ALL: Final = -1
_UNSIGNED: Final = "unsigned"  # why an event is not believed, for the metric
_FILTERS: Final = ("NodeFilter", "ServiceFilter", "TagFilter")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """One item of a handler's `on:`.

    Attributes:
        event: the name of the events; None for a state.
        kept: whether that name has a log.
        joint: whether the handler is.
    """

    handler: str
    query: str
    event: str | None = None
    kept: bool = False
    joint: bool = False

    def takes(self, change: Change) -> bool:
        """Whether the change is for this route."""
        if isinstance(change, Event):
            return self.event is not None and self.event in (EVERY, change.name)
        return self.query == change.query


def routes(handlers: Iterable[ConfiguredHandler]) -> tuple[Route, ...]:
    """All routes of a configuration."""
    return tuple(
        Route(handler.name, str(on.query()), on.event, on.keep is not None)
        if isinstance(on, OnEvent)
        else Route(handler.name, str(on.query()), joint=handler.type.joint)
        for handler in handlers
        for on in handler.entry.on
    )


class Dispatcher:
    """Writes what pollers deliver to the journal, and reports which handlers got something.

    An event of a kept name is only a signal: it waits for the relay, and reaches its handlers through the
    fleet's log. An event with a node, service or tag filter is listed only by the agents that match, so it is
    not kept, and goes to the handlers directly.

    Where messages of a kept name must be signed, no event of it is relayed. One with a payload that is
    accepted nevertheless goes to the handlers directly. One without a payload reaches no handler that follows
    the log: it may ask a publisher for a message.

    Args:
        journal: has the mailboxes.
        routes: of all handlers.
        observer: learns what came.
        relays: whether this node writes what it hears to the log; if not, others do.
        signed: says of a name whether its messages must be signed.
        refuses: says why an event must not be applied, "" if it may; is told whether it is to be kept.
    """

    def __init__(
        self,
        journal: Journal,
        routes: Collection[Route],
        *,
        observer: Observer,
        relays: bool = True,
        signed: Callable[[str], bool] = lambda _name: False,
        refuses: Callable[[Event, bool], str] = lambda _event, _kept: "",
    ) -> None:
        self._journal = journal
        self._routes = routes
        self._relays = relays
        self._signed = signed
        self._refuses = refuses
        self._kept = frozenset(
            (route.handler, route.event) for route in routes if route.kept and route.event is not None
        )
        self._joint = frozenset(route.handler for route in routes if route.joint)
        self._kept_names = frozenset(name for _, name in self._kept)
        self._observer = observer

    def deliver(self, snapshot: Snapshot) -> None:
        """Journal each change of the snapshot, in one transaction, for every handler that takes it.

        Raises:
            JournalError: nothing was recorded.
        """
        refused = self._refused(snapshot.changes)
        if snapshot.absent:
            self._deliver_absence(snapshot.changes)
            return
        owed = [
            (change, self.takers(change) if change.id in refused else self._takers(change))
            for change in snapshot.changes
        ]
        seen = None if snapshot.seen is None else (snapshot.query, snapshot.seen)
        endings: list[Ending] = []
        news = self._journal.receive(
            owed,
            listed=_listed(snapshot),
            seen=seen,
            ended=endings.append,
            refused=refused,
            joint=self._joint,
        )
        self._ended(endings, refused)
        self._observer.notified(list({name for _, names in news for name in names}))
        self._observer.missed(snapshot.missed)
        for change, takers in owed:
            if not takers:
                self._observer.received(change)
        for change, takers in news:
            self._observer.received(change)
            _say(change, takers)

    def _deliver_absence(self, states: Sequence[Change]) -> None:
        """That nothing was ever there is a state for joint handlers that have none of that query."""
        owed = [
            (state, [one for one in self.takers(state) if self._knows_nothing(one, state.query)])
            for state in states
        ]
        news = self._journal.receive(owed)
        self._observer.notified(list({name for _, names in news for name in names}))
        for state, takers in news:
            self._observer.received(state)
            _say(state, takers)

    def _knows_nothing(self, handler: str, query: str) -> bool:
        return handler in self._joint and not self._journal.has_state(handler, query)

    def _ended(self, endings: Iterable[Ending], refused: Collection[str]) -> None:
        """Report what ended on its arrival: states that were replaced, and events that are refused."""
        counted: set[str] = set()
        for ending in endings:
            self._observer.ended(ending)
            change = ending.entry.change
            if isinstance(change, Event) and change.id in refused and change.id not in counted:
                counted.add(change.id)
                self._observer.received(change)
                self._observer.disbelieved(change.name, _UNSIGNED)

    def _refused(self, changes: Iterable[Change]) -> dict[str, str]:
        """By ID, why events must not be applied."""
        events = [one for one in changes if isinstance(one, Event)]
        reasons = {one.id: self._refuses(one, self._has_log(one)) for one in events}
        return {identity: reason for identity, reason in reasons.items() if reason}

    def release(self) -> None:
        """Settle the events that wait for the relay since before the configuration changed.

        An event that is not accepted any more is refused. If this node no longer relays it, its handlers get
        it directly; handlers that follow the log get it provisionally, since other nodes may have written it.

        Raises:
            JournalError: they keep waiting.
        """
        entries = self._journal.pending(RELAY, limit=_ALL)
        events = {entry.seq: entry.change for entry in entries if isinstance(entry.change, Event)}
        refused = self._refused(events.values())
        endings: list[Ending] = []
        owed: list[tuple[Event, list[str]]] = []
        for entry in entries:
            event = events[entry.seq]
            if event.id in refused:
                owed.append((event, self.takers(event)))
                endings.append(Ending(entry, Outcome.REFUSED, refused[event.id]))
            elif not (self._relays and self._is_relayed(event)):
                owed.append((event, self._released(event)))
                endings.append(Ending(entry, Outcome.UNCHANGED, _NO_RELAY))
        arrived: list[Ending] = []
        self._journal.receive(owed, ended=arrived.append, refused=refused)
        self._ended(arrived, refused)
        for ending in self._journal.end(endings):
            self._observer.ended(ending)

    def _released(self, event: Event) -> list[str]:
        """The handlers that get an event directly; those that follow the log get it provisionally."""
        if self._has_log(event) and self._signed(event.name):
            return self._takers(event)
        takers = self.takers(event)
        followers = [name for name in takers if (name, event.name) in self._kept]
        Followed(self._journal).give_provisionally(followers, event)
        return [name for name in takers if name not in followers]

    def _takers(self, change: Change) -> list[str]:
        """For whom the change is, each once."""
        takers = self.takers(change)
        if not (isinstance(change, Event) and self._has_log(change)):
            return takers
        is_signed = self._signed(change.name)
        if is_signed and change.raw.get("Payload"):
            return takers
        direct = [name for name in takers if (name, change.name) not in self._kept]
        return [RELAY, *direct] if self._relays and not is_signed else direct

    def _has_log(self, event: Event) -> bool:
        """Whether its name has a log, and it is for all nodes."""
        return event.name in self._kept_names and not _is_filtered(event)

    def _is_relayed(self, event: Event) -> bool:
        """Whether it belongs into the log as it was heard."""
        return self._has_log(event) and not self._signed(event.name)

    def takers(self, change: Change) -> list[str]:
        """The handlers that take the change, each once, wherever it comes from."""
        return list(dict.fromkeys(route.handler for route in self._routes if route.takes(change)))


def _is_filtered(event: Event) -> bool:
    return any(event.raw.get(name) for name in _FILTERS)


def _listed(snapshot: Snapshot) -> list[str] | None:
    return [str(event["ID"]) for event in snapshot.answer.raw or ()] if snapshot.query == EVENTS else None


def _digest(event: Event) -> str:
    try:
        return digest(event.payload)
    except PermanentError as error:  # every handler refuses it
        return str(error)


def _say(change: Change, takers: list[str]) -> None:
    if isinstance(change, Event):
        _log.info(
            "event.received",
            event_name=change.name,
            change=change.id,
            payload=_digest(change),
            handlers=takers,
        )
    else:
        _log.info("state.received", query=change.query, change=change.id, handlers=takers)

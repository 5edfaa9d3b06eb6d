"""The states that Consul has now, judged as the daemon judges them, for a command that works without it.

Owns asking once within a time limit (`ask`), and following the changes (`StateWatch`). An answer that the
daemon would not believe is told, and never handed on as an empty state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final, Self

from agentd.errors import AgentdError, ConsulUnavailable
from agentd.watch.changes import Change
from agentd.watch.client import ConsulClient
from agentd.watch.judgement import Inquiry, StateMemory
from agentd.watch.options import ConsulOptions
from agentd.watch.poller import Poller
from agentd.watch.query import Query, Snapshot

NOTHING: Final = "Consul has nothing there yet, and the daemon keeps what it wrote before until it has"
"""Why there is no state of a query that the token may read: a first empty answer is not believed."""
_SETTLE: Final = 0.2  # seconds in which further changes join the first, as after a restart of Consul
_LOOK: Final = 0.25  # seconds between two looks at what the polls hold


@dataclass(frozen=True, slots=True)
class States:
    """What is known at one moment.

    Attributes:
        changes: the states that came, in the order of the queries.
        held: query -> why its answer is not believed, so that there is no state of it.
        absent: that nothing was ever there, as far as Consul knows, which is a state for joint handlers.
    """

    changes: Sequence[Change]
    held: dict[str, str] = field(default_factory=dict)
    absent: Sequence[Change] = ()


def ask(options: ConsulOptions, queries: Sequence[Query], timeout: float) -> States:
    """The current states, each asked for once.

    Args:
        options: where Consul is.
        queries: what to ask for.
        timeout: seconds for all of it.

    Raises:
        ConsulUnavailable: no answer, or none in time.
        ConsulRefused: Consul says no.
        AgentdError: an answer is empty because the token lacks a right.
    """
    changes: list[Change] = []
    absent: list[Change] = []
    held: dict[str, str] = {}
    end = time.monotonic() + timeout
    with closing(ConsulClient(options)) as client:
        client.end_by(end)
        for query in queries:
            try:
                snapshot = query.fetch(client)
                memory = StateMemory(proves_absence=True)
                verdict = memory.judge(snapshot, Inquiry(query, client, lambda: None))
            except ConsulUnavailable as error:
                late = f" (nothing was answered within {timeout:g} s)" if time.monotonic() >= end else ""
                raise ConsulUnavailable(f"{query}: {error}{late}") from error
            if verdict.alarming:
                raise AgentdError(f"{query}: {verdict.held}")
            if verdict.news:
                changes.extend(verdict.news.changes)
            else:
                held[str(query)] = NOTHING
                absent.extend(verdict.absent.changes if verdict.absent else ())
    return States(changes, held, absent)


class StateWatch:
    """Polls the queries until it is closed.

    Args:
        options: where Consul is.
        queries: what to poll.
    """

    def __init__(self, options: ConsulOptions, queries: Iterable[Query]) -> None:
        self._news: SimpleQueue[Change] = SimpleQueue()
        self._pollers = {
            str(query): Poller(
                query,
                lambda: ConsulClient(options),
                self._deliver,
                stop=threading.Event(),
                proves_absence=True,
            )
            for query in queries
        }
        self._known: dict[str, Change] = {}
        self._absent: dict[str, Change] = {}

    def __enter__(self) -> Self:
        """Start polling."""
        for poller in self._pollers.values():
            poller.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop polling, without waiting for answers."""
        for poller in self._pollers.values():
            poller.close()

    def turns(self) -> Iterator[States]:
        """The states, as soon as each query has one or an answer that is not believed, and at each change."""
        fresh = True
        while True:
            fresh = self._take() or fresh
            statuses = [one.status for name, one in self._pollers.items() if name not in self._known]
            held = {
                one.query: one.held if one.alarming else NOTHING for one in statuses if one.held is not None
            }
            if fresh and self._pollers.keys() == self._known.keys() | held.keys():
                fresh = False
                known = [self._known[name] for name in self._pollers if name in self._known]
                yield States(known, held, [self._absent[name] for name in held if name in self._absent])

    def _deliver(self, snapshot: Snapshot) -> None:
        for change in snapshot.changes:
            if snapshot.absent:
                self._absent[change.query] = change
            else:
                self._news.put(change)

    def _take(self) -> bool:
        """Take what came; say whether anything did."""
        try:
            change = self._news.get(timeout=_LOOK)
        except Empty:
            return False
        end = time.monotonic() + _SETTLE
        while True:
            self._known[change.query] = change
            try:
                change = self._news.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                return True

"""One simulated node of a fleet: a real relay, and the real rules for reading the log, on a real agent.

Who writes when, what is asked and what is believed is decided by the code that runs in production. The
journal is in memory, and what is read has reached its handlers as soon as it is read.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from agentd.errors import ConsulUnavailable, FleetError
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head, Keep
from agentd.fleet.keys import Keys
from agentd.fleet.log import Log
from agentd.fleet.pace import Pace
from agentd.fleet.reader import Reader
from agentd.fleet.relay import PATIENCE, Relay
from agentd.journal.entry import RELAY, Ending, Entry
from agentd.watch.changes import Event
from agentd.watch.client import Answer
from tests.servers.simulated_lines import (
    Asked,
    Line,
    Question,
    WaitingKV,
    decode_value,
    parse_body,
    parse_head,
    parse_message,
)

NAME: Final = "ban"
_SHORTEST_WAKE: Final = 0.2
_WAIT: Final = 20.0  # seconds of a blocking query
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 1.0  # seconds after a poll that failed, as `heads_poll` has them, ...
_JITTER: Final = 0.5  # ... and at most so many more


@dataclass
class Seen:
    """What some of the nodes came to see.

    Attributes:
        nodes: how many they are.
        last: event -> when the last of them was given its message, seconds after the beginning.
        count: event -> how many were.
        twice: how many messages a node was given twice, or out of order.
        wakes: how often a poll of theirs returned.
        collisions, relayed: as their relays counted them.
        provisional: how many events were applied as they were heard, by all of them.
        received, sent: bytes.
        processor: seconds of processor time of their processes, from the beginning on.
        lag: seconds by which something was done later than it was due, at most.
        errors: what went wrong in reading, by text.
    """

    nodes: int = 0
    last: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    twice: int = 0
    wakes: int = 0
    collisions: int = 0
    relayed: int = 0
    provisional: int = 0
    received: int = 0
    sent: int = 0
    processor: float = 0.0
    lag: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: Seen) -> None:
        """Those of other nodes as well."""
        for event, at in other.last.items():
            self.last[event] = max(at, self.last.get(event, 0.0))
            self.count[event] = self.count.get(event, 0) + other.count[event]
        for error, count in other.errors.items():
            self.failed(error, count)
        self.lag = max(self.lag, other.lag)
        for name in (
            "nodes",
            "twice",
            "wakes",
            "collisions",
            "relayed",
            "provisional",
            "received",
            "sent",
            "processor",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def failed(self, error: str, count: int = 1) -> None:
        """That went wrong so often."""
        self.errors[error] = self.errors.get(error, 0) + count


# ---------------------------------------------------------------- what is in memory


class _Mailbox:
    """The journal of a node, in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._number = 0

    def hear(self, events: Iterable[Event]) -> None:
        """They were heard."""
        with self._lock:
            for event in events:
                self._number += 1
                self._entries[self._number] = Entry(self._number, "", event.id, event, 0, time.time(), 0.0)

    def pending(self, handler: str, limit: int = 1000) -> list[Entry]:  # noqa: ARG002 (the relay's alone)
        """See `relay.Mailbox`."""
        with self._lock:
            return list(self._entries.values())[:limit]

    def newest_events(self, handler: str, after: int, limit: int = 1000) -> list[Entry]:  # noqa: ARG002 (likewise)
        """See `relay.Mailbox`."""
        with self._lock:
            return [self._entries[at] for at in range(after + 1, self._number + 1) if at in self._entries]

    def backlog(self) -> dict[str, int]:
        """See `relay.Mailbox`."""
        with self._lock:
            return {RELAY: len(self._entries)}

    def end(self, endings: Iterable[Ending]) -> list[Ending]:
        """See `relay.Mailbox`."""
        with self._lock:
            return [one for one in endings if self._entries.pop(one.entry.seq, None)]


class _Nothing:
    """What a new node holds."""

    def held(self, name: str) -> None:
        """Nothing."""

    def body(self, sha256: str) -> None:
        """Nothing."""

    def wrote(self, name: str, keep: Keep, messages: Sequence[Envelope]) -> None:
        """It holds nothing."""


# ---------------------------------------------------------------- one node


class Node:
    """A relay, whose turns somebody else takes, and a follower of the log, which never waits.

    Args:
        number: of the node.
        fleet: its name.
        nodes: how many there are.
        agent: the address of its agent.
        begins: monotonic seconds from which what is seen is counted.
        asked: is given the descriptor on which `readable` is to be called.
        after: has a function called after so many seconds.
        look: is called when there is something for the relay.
    """

    def __init__(  # noqa: PLR0913 (all named at the one call)
        self,
        number: int,
        *,
        fleet: str,
        nodes: int,
        agent: str,
        begins: float,
        asked: Callable[[int, Node], object],
        after: Callable[[float, Callable[[], object]], object],
        look: Callable[[Node], object],
    ) -> None:
        self.seen = Seen(nodes=1)
        self.mailbox = _Mailbox()
        self._nodes, self._begins = nodes, begins
        self._asked, self._after, self._look = asked, after, look
        self._keys = Keys(fleet)
        self._lines = Line(agent, PATIENCE), Line(agent)
        self._store = Asked()
        self._reader = Reader(self._store, self._keys)  # type: ignore[arg-type] # it only reads
        self.relay = Relay(
            self.mailbox,
            Log(WaitingKV(self._lines[0]), self._keys),
            _Nothing(),
            self._provisionally,
            keep={NAME: "all"},
            node=lambda: f"node{number}",
            pace=Pace(lambda: nodes),
        )
        self._index = self._cursor = self._failures = 0
        self._head: Head | None = None
        self._parse: Callable[[bytes], object] | None = None  # of the answer that is waited for; None: a poll

    def hear(self, events: Sequence[Event]) -> None:
        """They were heard."""
        self.mailbox.hear(events)
        self._look(self)

    def count(self) -> Seen:
        """What it saw."""
        status = self.relay.status
        self.seen.collisions, self.seen.relayed = status.collisions, status.relayed
        self.seen.received = sum(one.received for one in self._lines)
        self.seen.sent = sum(one.sent for one in self._lines)
        return self.seen

    def _provisionally(self, event: Event) -> None:  # noqa: ARG002 (which one does not matter)
        self.seen.provisional += 1

    # ------------------------------------------------------------------ following

    def poll(self) -> None:
        """Ask for heads that are newer than the last ones."""
        blocks = f"&index={self._index}&wait={_WAIT:g}s" if self._index else ""
        self._parse = None
        self._ask("GET", f"/v1/kv/{self._keys.names}?recurse={blocks}")

    def _ask(self, method: str, target: str, body: bytes = b"") -> None:
        try:
            self._asked(self._lines[1].ask(method, target, body), self)
        except OSError as error:
            self._fail(error)

    def readable(self) -> None:
        """There is something to read."""
        try:
            found = self._lines[1].answer(socket.MSG_DONTWAIT)
            if found is None:
                return
            if self._parse is None:
                self._came(found)
            else:
                self._parse(found.raw)
                self._advance()
        except BlockingIOError:
            pass
        except (OSError, ConsulUnavailable, FleetError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.seen.failed(str(error))
        if isinstance(error, OSError):
            self._lines[1].close()
        self._index = 0
        self._store.answers.clear()
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures) + random.uniform(0.0, _JITTER)
        self._failures += 1
        self._after(pause, self.poll)

    def _came(self, answer: Answer) -> None:
        self.seen.wakes += 1
        self._failures, self._index = 0, answer.index
        pairs = parse_body(answer.raw) if answer.status == HTTPStatus.OK else ()
        raw = next((one["Value"] for one in pairs if one["Key"] == self._keys.head(NAME)), None)
        self._head = None if raw is None else parse_head(decode_value(raw))
        self._advance()

    def _advance(self) -> None:
        """Read on, as far as is possible without another question."""
        head = self._head
        if head is not None and head.newest > self._cursor:
            if head.inline is not None and head.above(self._cursor) == (head.newest,):
                self._take([parse_message(head.inline)])
            else:
                try:
                    for found in list(self._reader.after(NAME, self._cursor, head)):
                        self._take(found.messages)
                except Question as missing:
                    self._parse = missing.parse
                    self._ask(*missing.asks)
                    return
        self._store.answers.clear()
        self._after(max(_SHORTEST_WAKE, self._nodes / 2000), self.poll)

    def _take(self, messages: Sequence[Envelope]) -> None:
        now = time.monotonic() - self._begins
        for message in messages:
            self.seen.twice += message.num <= self._cursor or message.id in self.seen.count
            self._cursor = max(self._cursor, message.num)
            self.seen.last[message.id] = now
            self.seen.count[message.id] = 1
        self.relay.saw(NAME, messages)
        self._look(self)

"""Many nodes of a fleet on one machine: real relays and real readers of the log, on real Consul agents.

Simulated are the gossip, which each node hears late and in part; the journal, which is in memory; and the
handlers, of which only the moment is known at which they would be given a message. What all nodes of one
process read alike is parsed once: else the one machine would be busy with what is the work of hundreds.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Final

import structlog

from agentd.errors import ConsulError, FleetError
from agentd.fleet import reader, writer
from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.fleet.head import Head, Keep, parse_head
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.log import Log
from agentd.fleet.pace import Pace
from agentd.fleet.pruning import mark
from agentd.fleet.relay import Relay
from agentd.http import Response
from agentd.journal.entry import RELAY, Ending, Entry
from agentd.watch.changes import Event
from agentd.watch.client import ConsulClient
from agentd.watch.kv import pair_of
from agentd.watch.options import ConsulOptions
from agentd.watch.transport import Transport

NAME: Final = "ban"
GOSSIP: Final = 0.15
"""Seconds within which an event reaches those that hear it."""
_GRID: Final = 0.1  # seconds between two looks of a node at what it has heard
_HEAD_OF_ANSWER: Final = 250  # bytes, about
_SHORTEST_WAKE: Final = 0.2
_PROCESSES: Final = 2
_parse_envelope = lru_cache(4096)(parse_envelope)
_parse_head = lru_cache(256)(parse_head)


@dataclass(frozen=True)
class Plan:
    """What is fired, and who hears it.

    Attributes:
        fleet: its name.
        nodes: how many there are.
        agents: the addresses of the agents, to which the nodes are spread.
        events: IDs, each with the seconds after the beginning at which it is fired.
        unheard: the share of the nodes that do not hear an event.
        begins: monotonic seconds, the same clock in all processes.
        ends: until when the nodes go on, at most.
        seed: of everything that is drawn.
    """

    fleet: str
    nodes: int
    agents: tuple[str, ...]
    events: tuple[tuple[str, float], ...]
    unheard: float
    begins: float
    ends: float
    seed: int = 1

    def heard_by(self, event: str) -> list[int]:
        """The nodes that hear an event, at least one."""
        draw = random.Random(f"{self.seed} {event}")
        heard = [node for node in range(self.nodes) if draw.random() >= self.unheard]
        return heard or [draw.randrange(self.nodes)]


@dataclass
class Seen:
    """What some of the nodes came to see.

    Attributes:
        nodes: how many they are.
        last: event -> when the last of them was given its message, seconds after the beginning.
        count: event -> how many were.
        twice: how many messages a node was given twice, or out of order.
        collisions, relayed: as their relays counted them.
        provisional: how many events were applied as they were heard, by all of them.
        received, sent: bytes.
        errors: what went wrong in reading, by text.
    """

    nodes: int = 0
    last: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    twice: int = 0
    collisions: int = 0
    relayed: int = 0
    provisional: int = 0
    received: int = 0
    sent: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: Seen) -> None:
        """Those of other nodes as well."""
        for event, at in other.last.items():
            self.last[event] = max(at, self.last.get(event, 0.0))
            self.count[event] = self.count.get(event, 0) + other.count[event]
        for error, count in other.errors.items():
            self.errors[error] = self.errors.get(error, 0) + count
        for name in ("nodes", "twice", "collisions", "relayed", "provisional", "received", "sent"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


# ---------------------------------------------------------------- one node


class _CountingTransport(Transport):
    """Counts bytes."""

    def __init__(self, options: ConsulOptions) -> None:
        super().__init__(options)
        self.received = self.sent = 0

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: float
    ) -> Response:
        self.sent += _HEAD_OF_ANSWER + len(target) + len(body or b"")
        reply = super()._send(method, target, body, headers, patience)
        self.received += _HEAD_OF_ANSWER + len(reply.body)
        return reply


class _Client(ConsulClient):
    """The real one, with its bytes counted."""

    def __init__(self, options: ConsulOptions) -> None:
        super().__init__(options)
        self.counts = self._transport = _CountingTransport(options)


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


class _Node:
    """A relay, and a thread that follows the log."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.seen = Seen(nodes=1)
        self.mailbox = _Mailbox()
        self._plan = plan
        self._keys = Keys(plan.fleet)
        options = ConsulOptions(address=plan.agents[number % len(plan.agents)])
        self._clients = [_Client(options), _Client(options)]
        log = Log(ConsulKV(self._clients[0]), self._keys)
        self._reader = reader.Reader(ConsulKV(self._clients[1]), self._keys)
        self.relay = Relay(
            self.mailbox,
            log,
            _Nothing(),
            self._provisionally,
            keep={NAME: "all"},
            node=lambda: f"node{number}",
            pace=Pace(lambda: plan.nodes),
        )
        self._cursor = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self.relay.start()
        self._thread.start()

    def hear(self, events: Sequence[Event]) -> None:
        """They were heard."""
        self.mailbox.hear(events)
        self.relay.wake()

    def stop(self) -> None:
        """End both threads, and count."""
        self._stop.set()
        self.relay.stop()
        for client in self._clients:
            client.close()
        status = self.relay.status
        self.seen.collisions, self.seen.relayed = status.collisions, status.relayed
        self.seen.received = sum(one.counts.received for one in self._clients)
        self.seen.sent = sum(one.counts.sent for one in self._clients)

    def _provisionally(self, event: Event) -> None:  # noqa: ARG002 (which one does not matter)
        self.seen.provisional += 1

    def _follow(self) -> None:
        index = 0
        while not self._stop.is_set():
            try:
                answer = self._clients[1].get(f"/v1/kv/{self._keys.names}", (("recurse", ""),), index, 20.0)
                index = answer.index
                for raw in answer.raw or ():
                    if raw["Key"] == self._keys.head(NAME):
                        self._read(_parse_head(pair_of(raw).value))
            except (ConsulError, FleetError) as error:
                if not self._stop.is_set():
                    text = str(error).partition(":")[0]
                    self.seen.errors[text] = self.seen.errors.get(text, 0) + 1
                index = 0
            self._stop.wait(max(_SHORTEST_WAKE, self._plan.nodes / 2000))

    def _read(self, head: Head) -> None:
        if head.inline is not None and head.above(self._cursor) == (head.newest,):
            self._take([_parse_envelope(head.inline)])
            return
        for found in self._reader.after(NAME, self._cursor, head):
            self._take(found.messages)

    def _take(self, messages: Sequence[Envelope]) -> None:
        now = time.monotonic() - self._plan.begins
        for message in messages:
            self.seen.twice += message.num <= self._cursor or message.id in self.seen.count
            self._cursor = max(self._cursor, message.num)
            self.seen.last[message.id] = now
            self.seen.count[message.id] = 1
        self.relay.saw(NAME, messages)


# ---------------------------------------------------------------- all of them


def run(plan: Plan) -> Seen:
    """Simulate the whole fleet, in several processes; `plan.begins` must leave them time to start."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for share in range(_PROCESSES):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_run_share, args=(plan, share, theirs), daemon=True)
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    total = Seen()
    for pipe, worker in zip(pipes, workers, strict=True):
        if not pipe.poll(plan.ends + 60.0):
            raise TimeoutError("a part of the simulated fleet did not end")
        total.add(pipe.recv())
        worker.join(10.0)
    return total


def _run_share(plan: Plan, share: int, pipe: Connection) -> None:
    """One process: every so-many-th node."""
    vars(reader)["parse_envelope"] = _parse_envelope
    vars(writer)["parse_head"] = _parse_head
    vars(writer)["mark"] = lru_cache(16384)(mark)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # hundreds of nodes say too much
    sys.setswitchinterval(0.001)
    threading.stack_size(256 * 1024)
    nodes = {number: _Node(plan, number) for number in range(share, plan.nodes, _PROCESSES)}
    for node in nodes.values():
        node.start()
    _gossip(plan, nodes)
    until = time.monotonic() + plan.ends - (time.monotonic() - plan.begins)
    while time.monotonic() < until and not all(
        len(one.seen.count) == len(plan.events) for one in nodes.values()
    ):
        time.sleep(0.1)
    total = Seen()
    for node in nodes.values():
        node.stop()
        total.add(node.seen)
    pipe.send(total)
    pipe.close()
    os._exit(0)  # the threads wait in the middle of a poll


def _gossip(plan: Plan, nodes: Mapping[int, _Node]) -> None:
    """Let each node hear its events, when it looks at what has come."""
    draw = random.Random(plan.seed)
    looks: dict[tuple[int, int], list[Event]] = {}
    for ltime, (identity, at) in enumerate(plan.events, 1):
        raw = {"ID": identity, "Name": NAME, "Payload": "YWRkIDE5Mi4wLjIuMQ==", "LTime": ltime}
        event = Event("event", raw)
        for node in plan.heard_by(identity):
            came = at + draw.uniform(0.0, GOSSIP)
            if node in nodes:
                looks.setdefault((int(came / _GRID + node / plan.nodes) + 1, node), []).append(event)
    queue = [((grid - node / plan.nodes) * _GRID, node, events) for (grid, node), events in looks.items()]
    heapq.heapify(queue)
    while queue:
        at, number, events = heapq.heappop(queue)
        time.sleep(max(0.0, plan.begins + at - time.monotonic()))
        nodes[number].hear(events)

"""Many nodes of a fleet on one machine: real relays and real readers of the log, on real Consul agents.

Simulated are the gossip, which each node hears late and in part; the journal, which is in memory; and the
handlers, of which only the moment is known at which they would be given a message. One thread of a process
does what needs no answer for all of its nodes; a turn in which a relay asks Consul takes a thread of its own.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import random
import select
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from typing import Final

import structlog

from agentd.watch.changes import Event
from tests.servers.simulated_lines import share_parsing
from tests.servers.simulated_node import NAME, Node, Seen

GOSSIP: Final = 0.15
"""Seconds within which an event reaches those that hear it."""
_GRID: Final = 0.1  # seconds between two looks of a node at what it has heard
_PROCESSES: Final = 2
_TURNS: Final = 48  # that one process takes at a time
_FAILED: Final = 1.0  # seconds until the next turn after one that failed


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


class _Share:
    """The nodes of one process."""

    def __init__(self, plan: Plan, share: int) -> None:
        self._plan = plan
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._number = count()
        self._epoll = select.epoll()
        self._bell, self._pull = os.pipe()
        os.set_blocking(self._bell, False)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._by_descriptor: dict[int, Node] = {}
        self._turns = ThreadPoolExecutor(_TURNS)
        self._ended: deque[tuple[Node, float]] = deque()
        self._busy: dict[Node, bool] = {}  # whose relay takes a turn, and whether there is more for it
        self._due: dict[Node, float] = {}
        self._used = self._lag = 0.0
        self._nodes = {
            number: Node(
                number,
                fleet=plan.fleet,
                nodes=plan.nodes,
                agent=plan.agents[number % len(plan.agents)],
                begins=plan.begins,
                asked=self._asked,
                after=lambda seconds, act: self._at(time.monotonic() + seconds, act),
                look=self._look,
            )
            for number in range(share, plan.nodes, _PROCESSES)
        }

    def run(self) -> Seen:
        """Until every node has every event, or time is up."""
        now = time.monotonic()
        for number, node in self._nodes.items():
            self._at(now + number / self._plan.nodes, node.poll)
            self._look(node)
        self._gossip()
        self._at(self._plan.begins, self._begin)
        until = self._plan.begins + self._plan.ends
        while (now := time.monotonic()) < until and not self._all_there():
            wait = min(1.0, max(0.0, self._timers[0][0] - now)) if self._timers else 1.0
            for descriptor, _ in self._epoll.poll(wait):
                if descriptor == self._bell:
                    os.read(self._bell, 4096)
                else:
                    self._by_descriptor[descriptor].readable()
            self._run_timers()
            while self._ended:
                self._rest(*self._ended.popleft())
        total = Seen(processor=time.process_time() - self._used, lag=self._lag)
        for node in self._nodes.values():
            total.add(node.count())
        return total

    def _begin(self) -> None:
        self._used, self._lag = time.process_time(), 0.0

    def _all_there(self) -> bool:
        return all(len(one.seen.count) == len(self._plan.events) for one in self._nodes.values())

    def _at(self, when: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (when, next(self._number), act))

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            when, _, act = heapq.heappop(self._timers)
            self._lag = max(self._lag, now - when)
            act()

    def _asked(self, descriptor: int, node: Node) -> None:
        if self._by_descriptor.get(descriptor) is not node:
            self._by_descriptor[descriptor] = node
            self._epoll.register(descriptor, select.EPOLLIN)

    def _gossip(self) -> None:
        """Let each node hear its events, when it looks at what has come."""
        plan = self._plan
        draw = random.Random(plan.seed)
        looks: dict[tuple[int, int], list[Event]] = {}
        for ltime, (identity, at) in enumerate(plan.events, 1):
            raw = {"ID": identity, "Name": NAME, "Payload": "YWRkIDE5Mi4wLjIuMQ==", "LTime": ltime}
            event = Event("event", raw)
            for node in plan.heard_by(identity):
                came = at + draw.uniform(0.0, GOSSIP)
                if node in self._nodes:
                    looks.setdefault((int(came / _GRID + node / plan.nodes) + 1, node), []).append(event)
        for (grid, number), events in looks.items():
            when = plan.begins + (grid - number / plan.nodes) * _GRID
            self._at(when, partial(self._nodes[number].hear, events))

    # ------------------------------------------------------------------ relays

    def _look(self, node: Node) -> None:
        """There may be something for its relay."""
        if node in self._busy:
            self._busy[node] = True
            return
        self._wait(node, node.relay.look())

    def _wait(self, node: Node, wait: float) -> None:
        if wait <= 0.0:
            self._busy[node] = False
            self._turns.submit(self._turn, node)
            return
        when = time.monotonic() + wait
        if self._due.get(node, 0.0) != when:
            self._due[node] = when
            self._at(when, partial(self._look_if_due, node, when))

    def _look_if_due(self, node: Node, when: float) -> None:
        if self._due.get(node) == when:
            self._look(node)

    def _turn(self, node: Node) -> None:
        """In a thread of its own."""
        try:
            while (wait := node.relay.turn()) <= 0.0:
                pass
        except Exception as error:  # noqa: BLE001 (as the relay's own thread outlives any)
            node.seen.failed(f"{type(error).__name__} {error}")
            wait = _FAILED
        self._ended.append((node, wait))
        os.write(self._pull, b".")

    def _rest(self, node: Node, wait: float) -> None:
        if self._busy.pop(node):
            self._look(node)
        else:
            self._wait(node, wait)


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
    share_parsing()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # hundreds of nodes say too much
    sys.setswitchinterval(0.001)
    pipe.send(_Share(plan, share).run())
    pipe.close()
    os._exit(0)  # threads wait in the middle of a turn

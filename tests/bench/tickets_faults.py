"""Sessions missed while ticket keys are rotated and things break, against the ring that events drive.

Consul has three servers, so that it survives its leader. Each fault lasts longer than the interval, so that a
rotation is blocked; how long it takes to be confirmed after the fault is measured.
"""

from __future__ import annotations

import math
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final

from tests.bench.clients import Clients, Tally
from tests.bench.operator import Operator
from tests.bench.rotations import Step, Trail, explain
from tests.bench.rows import Row, p50, spread
from tests.bench.ticket_faults import Fault, of_nodes
from tests.bench.ticket_fleet import EVERY, NODES, OLDEST, RATE, ByEvents, Coordinated, fire_key
from tests.servers.consul import ConsulAgent, ConsulAnswerError
from tests.servers.fleet import start_agents
from tests.servers.tls import make_certificate

SERVERS: Final = 3
ROUNDS: Final = int(os.environ.get("TICKET_FAULTS", "2"))
"""How often each kind of fault happens."""
FEWEST: Final = 50
"""Confirmed rotations, at least."""
_KINDS: Final = 6
_HOLD: Final = 1.5 * EVERY  # seconds
_LONGEST: Final = 60.0
_PROMOTE_AFTER: Final = "2s"
_WITHIN: Final = 10.0


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """First one side, then the other, which is given the same faults."""
    certificate = make_certificate(directory)
    agents = start_agents(stack, directory, NODES, servers=SERVERS)
    with ExitStack() as ours:
        fleet = Coordinated(ours, directory / "coordinated", certificate, agents)
        run = _Run(ours, fleet, agents, directory / "ours.log")
        found = run.judge()
    with ExitStack() as theirs:
        events = ByEvents(theirs, directory / "by-events", certificate, agents, _PROMOTE_AFTER)
        driven = _by_events(theirs, events, agents, directory / "theirs.log")
    what = f"{run.trail.confirmed} rotations while things break"
    yield Row(
        f"{what}: sessions missed", "", len(found.missed),
        f"the ring that events drive, same faults: {len(driven.missed):,} {driven.note()}", None, 0,
        f"{found.note()}; load {os.getloadavg()[0]:.1f}",
    )  # fmt: skip
    yield Row(
        f"... confirmed rotations, fewer than {FEWEST}", "", max(0, FEWEST - run.trail.confirmed), "", None, 0
    )
    yield Row(
        "... after the fault until one is confirmed, most", "s", max(run.recoveries), "", None, _WITHIN,
        f"p50 {p50(run.recoveries):.2g}; {spread(run.recoveries)}",
    )  # fmt: skip


class _Run:
    """The coordinated side: clients bounce and the operator rotates, while one fault follows the other."""

    def __init__(
        self, stack: ExitStack, fleet: Coordinated, agents: Sequence[ConsulAgent], log: Path
    ) -> None:
        self.recoveries: list[float] = []
        self._done: list[tuple[float, str]] = []
        self._clients = Clients(log, fleet.servers, oldest=OLDEST, rate=RATE)
        self._operator = Operator(fleet)
        self.trail = Trail(fleet, agents)
        stack.callback(self._clients.stop)
        stack.callback(self.trail.stop)
        stack.callback(self._operator.stop)
        self.trail.start()
        self._operator.start()
        self._confirmed(0)  # the first one only brings all nodes to one ring
        self._clients.start()
        self._confirmed(self.trail.newest)
        for fault in islice(of_nodes(fleet.nodes), ROUNDS * _KINDS):
            self._suffer(fault)
        for _ in range(ROUNDS):
            for phase in ("", "staged", "promoted", "idle"):
                self._lose_coordinator(phase)
        while self.trail.confirmed < FEWEST:
            self._confirmed(self.trail.newest)
        self._clients.stop()
        self._operator.stop()

    def _suffer(self, fault: Fault) -> None:
        time.sleep(random.uniform(0, EVERY))
        self._note(fault.name)
        fault.begin()
        try:
            time.sleep(_HOLD)
        finally:
            fault.clear()
        self._note(f"{fault.name}: over")
        self._recover()

    def _lose_coordinator(self, phase: str) -> None:
        if phase:
            self.trail.wait(lambda step: step.phase == phase, since=self.trail.newest, until=_end())
        else:
            begins, until = self._operator.begins, _end()
            while self._operator.begins == begins and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.5))
        self._operator.kill()
        self._note(f"coordinator killed, {phase or 'at its beginning'}")
        self._recover()

    def _recover(self) -> None:
        """Measure how long it takes until a rotation is confirmed, and let another one pass."""
        began = time.monotonic()
        step = self._confirmed(self.trail.newest)
        self.recoveries.append(time.monotonic() - began if step else math.inf)
        self._confirmed(self.trail.newest)

    def _confirmed(self, since: int) -> Step | None:
        return self.trail.wait(lambda step: step.phase == "idle", since=since, until=_end())

    def _note(self, what: str) -> None:
        self._done.append((time.time(), what))

    def judge(self) -> Tally:
        """What came of the connections; what went wrong is explained."""
        found = self._clients.tally()
        explain(found.missed, self.trail.steps)
        for run in self._operator.runs:
            if run.status > 0:
                told = run.told.splitlines()[-1:] or [""]
                print(f"{run.at:.2f}: status {run.status}: {told[0]}", file=sys.stderr)
        if found.missed or max(self.recoveries) > _WITHIN:
            for at, what in self._done:
                print(f"{at:.2f}: {what}", file=sys.stderr)
        return found


def _by_events(stack: ExitStack, fleet: ByEvents, agents: Sequence[ConsulAgent], log: Path) -> Tally:
    """The same for nodes that promote by their own clocks what they have heard."""
    clients, over = Clients(log, fleet.servers, oldest=OLDEST, rate=RATE), threading.Event()
    spared: list[ConsulAgent] = list(agents)
    firing = threading.Thread(target=_fire, args=(spared, over))
    stack.callback(clients.stop)
    stack.callback(over.set)
    firing.start()
    time.sleep(2 * EVERY)
    clients.start()
    for fault in islice(of_nodes(fleet.nodes), ROUNDS * _KINDS):
        time.sleep(random.uniform(EVERY, 2 * EVERY))
        spared[:] = fault.spared
        fault.begin()
        time.sleep(_HOLD)
        fault.clear()
        spared[:] = agents
    time.sleep(2 * EVERY)
    over.set()
    firing.join()
    clients.stop()
    return clients.tally()


def _fire(spared: Sequence[ConsulAgent], over: threading.Event) -> None:
    """Fire a key every few seconds, as cron does, on an agent that answers."""
    while not over.wait(EVERY):
        for agent in list(spared):
            try:
                fire_key(agent)
            except (OSError, ConsulAnswerError):  # it is down, or there is no leader
                continue
            break


def _end() -> float:
    return time.monotonic() + _LONGEST

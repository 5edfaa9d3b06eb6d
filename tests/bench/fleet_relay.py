"""200 simulated nodes relay what they hear to one log: at 100 events/s, in a burst, and without a leader.

They take half a core, and Consul's five agents one and a half; on a machine that has less to spare set
FLEET_NODES and FLEET_EVENTS, since what is measured then is the machine: `lag` tells by how much the nodes
were kept waiting for a processor.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from agentd.errors import ConsulUnavailable
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader, Reading
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.bench.rows import Row
from tests.servers.consul import ConsulAgent
from tests.servers.simulated_fleet import Plan, run
from tests.servers.simulated_node import NAME, Seen
from tests.servers.waiting import wait_until

NODES = int(os.environ.get("FLEET_NODES", "200"))
EVENTS = int(os.environ.get("FLEET_EVENTS", "1000"))
RATE = 100.0
UNHEARD = 0.2
SERVERS, CLIENTS = 3, 2
_READY = 10.0  # seconds until all simulated nodes run
_BURST = 0.3  # seconds in which the events of a burst are fired
_LONGEST = 60.0
_MANY = {"limits": {"http_max_conns_per_client": 1000}}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """What came of one run.

    Attributes:
        lost: events that are not in the log.
        late: events that are, but that some node was not given within the run's time.
        twice: events that are in the log more than once, and what a node was given twice or out of order.
        seen: what the nodes saw.
        last: of each event, seconds from its firing until the last node was given its message; ascending.
        cores: processor time, as a part of one core: of the leader, of all Consul agents, and of the nodes.
    """

    lost: int
    late: int
    twice: int
    seen: Seen
    last: Sequence[float]
    cores: tuple[float, float, float]

    def at(self, share: float) -> float:
        """A percentile of `last`."""
        return self.last[min(len(self.last) - 1, int(share * len(self.last)))] if self.last else float("inf")

    @property
    def wrong(self) -> int:
        """How much is not as it should be."""
        return self.lost + self.late + self.twice

    @property
    def wrongs(self) -> str:
        """The same, by kind."""
        return f"lost {self.lost}, late {self.late}, twice {self.twice}"

    @property
    def note(self) -> str:
        """What else is worth knowing."""
        each = self.seen.nodes * EVENTS
        leader, agents, nodes = self.cores
        return (
            f"p50 {self.at(0.5):.2f} s; sent {self.seen.sent / each / 1000:.2f} KB;"
            f" cores: leader {leader:.2f}, all agents {agents:.2f}, nodes {nodes:.2f}"
            f" ({1e6 * self.seen.processor / each:.0f} us a node and event);"
            f" {self.seen.wakes / self.seen.nodes:.0f} wakes a node; lag {self.seen.lag:.2f} s;"
            f" provisional {self.seen.provisional / each:.1%}; load {os.getloadavg()[0]:.1f}"
            + "".join(f"; {count} x {error}" for error, count in self.seen.errors.items())
        )


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Three runs, each with a log of its own; the servers are the same."""
    servers, clients = _agents(stack, directory)
    steady = [at / RATE for at in range(EVENTS)]
    burst = [_BURST * at / EVENTS for at in range(EVENTS)]

    found = _run("steady", servers, clients, steady)
    what = f"{NODES} simulated nodes, {UNHEARD:.0%} unheard, {EVENTS} events at {RATE:g}/s"
    yield Row(f"{what}: not exactly one message", "", found.wrong, "", None, 0, found.wrongs)
    yield Row("... failed CAS an event", "", found.seen.collisions / EVENTS, "", None, 0.1)
    yield Row("... fired -> last node, p99", "s", found.at(0.99), "", None, 0.6, found.note)
    yield Row("... received a node and event", "KB", found.seen.received / NODES / EVENTS / 1000, "", None, 1)

    found = _run("burst", servers, clients, burst)
    yield Row(f"a burst of {EVENTS}: not exactly one message", "", found.wrong, "", None, 0, found.wrongs)
    yield Row("... failed CAS an event", "", found.seen.collisions / EVENTS, "", None, 0.1)
    yield Row("... fired -> last node, p99", "s", found.at(0.99), "", None, 2, found.note)

    found = _run("leader", servers, clients, steady, meanwhile=lambda: _leader(servers).kill())
    yield Row(
        f"{EVENTS} at {RATE:g}/s, leader killed: not exactly one message",
        "",
        found.wrong,
        "",
        None,
        0,
        found.wrongs,
    )
    yield Row("... failed CAS an event", "", found.seen.collisions / EVENTS, "", None, 0.1)
    yield Row("... fired -> last node, p99", "s", found.at(0.99), "", None, 5, found.note)


def _agents(stack: ExitStack, directory: Path) -> tuple[list[ConsulAgent], list[ConsulAgent]]:
    """Servers, and the agents that the nodes ask."""
    agents: list[ConsulAgent] = []
    for number in range(SERVERS + CLIENTS):
        place = directory / f"c{number}"
        place.mkdir()
        agent = ConsulAgent(
            place,
            node=f"agent{number}",
            address=f"127.0.0.{number + 1}",
            join=agents[0] if agents else None,
            server=number < SERVERS,
            extra=_MANY,
        )
        stack.callback(agent.kill)
        agents.append(agent.start())
    return agents[:SERVERS], agents[SERVERS:]


def _run(
    fleet: str,
    servers: Sequence[ConsulAgent],
    clients: Sequence[ConsulAgent],
    fired: Sequence[float],
    meanwhile: Callable[[], object] | None = None,
) -> Result:
    agents = [f"{one.address}:{one.ports['http']}" for one in clients]
    events = tuple((str(uuid.uuid4()), at) for at in fired)
    begins = time.monotonic() + _READY
    plan = Plan(fleet, NODES, tuple(agents), events, UNHEARD, begins, _LONGEST)
    pids = [_leader(servers).process.pid, *(one.process.pid for one in (*servers, *clients))]
    used = [_processor_time(pid) for pid in pids]
    if meanwhile:
        timer = Timer(_READY + fired[-1] / 2, meanwhile)
        timer.start()
    seen = run(plan)
    took = time.monotonic() - begins
    leader, *all_agents = (
        max(0.0, _processor_time(pid) - so_far) for pid, so_far in zip(pids, used, strict=True)
    )
    times = dict(events)
    last = sorted(at - times[event] for event, at in seen.last.items())
    written = _written(plan, agents[0])
    ids = [event for event, _ in plan.events]
    return Result(
        lost=sum(not written[event] for event in ids),
        late=sum(bool(written[event]) and seen.count.get(event, 0) < NODES for event in ids),
        twice=sum(count - 1 for count in written.values()) + len(written.keys() - set(ids)) + seen.twice,
        seen=seen,
        last=last,
        cores=(leader / took, sum(all_agents) / took, seen.processor / took),
    )


def _written(plan: Plan, agent: str) -> Counter[str]:
    """How often each event is in the log; waits for a leader."""
    with closing(ConsulClient(ConsulOptions(address=agent))) as client:
        reader = Reader(ConsulKV(client), Keys(plan.fleet))

        def read() -> list[Reading]:
            with suppress(ConsulUnavailable):
                return list(reader.after(NAME, 0, None))
            return []

        return Counter(one.id for found in wait_until(read, "the log") for one in found.messages)


def _leader(servers: Sequence[ConsulAgent]) -> ConsulAgent:
    alive = [one for one in servers if one.process.running]
    address = alive[0].get("/v1/status/leader")
    return next(one for one in alive if address == f"{one.address}:{one.ports['server']}")


def _processor_time(pid: int) -> float:
    """Seconds; 0 of a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS

"""200 simulated nodes relay what they hear to one log: at 100 events/s, in a burst, and without a leader.

They take about two cores beside Consul's; on a machine that has less to spare set FLEET_NODES and
FLEET_EVENTS, since what is measured then is the machine.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.bench.rows import Row
from tests.servers.consul import ConsulAgent
from tests.servers.simulated_fleet import NAME, Plan, Seen, run

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
        wrong: events that are not in the log exactly once, or that a node was not given exactly once.
        seen: what the nodes saw.
        last: of each event, seconds from its firing until the last node was given its message; ascending.
        cores: processor time of the leader, as a part of one core.
    """

    wrong: int
    seen: Seen
    last: Sequence[float]
    cores: float

    def at(self, share: float) -> float:
        """A percentile of `last`."""
        return self.last[min(len(self.last) - 1, int(share * len(self.last)))] if self.last else float("inf")

    @property
    def note(self) -> str:
        """What else is worth knowing."""
        each = self.seen.nodes * EVENTS
        return (
            f"p50 {self.at(0.5):.2f} s; sent {self.seen.sent / each / 1000:.2f} KB;"
            f" leader {self.cores:.0%} of a core; provisional {self.seen.provisional / each:.1%}"
            + "".join(f"; {count} x {error}" for error, count in self.seen.errors.items())
        )


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Three runs, each with a log of its own; the servers are the same."""
    servers, clients = _agents(stack, directory)
    agents = [f"{one.address}:{one.ports['http']}" for one in clients]
    steady = [at / RATE for at in range(EVENTS)]
    burst = [_BURST * at / EVENTS for at in range(EVENTS)]

    found = _run("steady", servers, agents, steady)
    what = f"{NODES} simulated nodes, {UNHEARD:.0%} unheard, {EVENTS} events at {RATE:g}/s"
    yield Row(f"{what}: not exactly one message", "", found.wrong, "", None, 0)
    yield Row("... failed CAS an event", "", found.seen.collisions / EVENTS, "", None, 0.1)
    yield Row("... fired -> last node, p99", "s", found.at(0.99), "", None, 0.6, found.note)
    yield Row("... received a node and event", "KB", found.seen.received / NODES / EVENTS / 1000, "", None, 1)

    found = _run("burst", servers, agents, burst)
    yield Row(f"a burst of {EVENTS}: not exactly one message", "", found.wrong, "", None, 0)
    yield Row("... failed CAS an event", "", found.seen.collisions / EVENTS, "", None, 0.1)
    yield Row("... fired -> last node, p99", "s", found.at(0.99), "", None, 2, found.note)

    found = _run("leader", servers, agents, steady, meanwhile=lambda: _leader(servers).kill())
    yield Row(f"{EVENTS} at {RATE:g}/s, leader killed: not exactly one message", "", found.wrong, "", None, 0)
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
    agents: Sequence[str],
    fired: Sequence[float],
    meanwhile: Callable[[], object] | None = None,
) -> Result:
    events = tuple((str(uuid.uuid4()), at) for at in fired)
    begins = time.monotonic() + _READY
    plan = Plan(fleet, NODES, tuple(agents), events, UNHEARD, begins, _LONGEST)
    leader = _leader(servers)
    used = _processor_time(leader.process.pid)
    if meanwhile:
        timer = Timer(_READY + fired[-1] / 2, meanwhile)
        timer.start()
    seen = run(plan)
    took = time.monotonic() - begins
    cores = (_processor_time(leader.process.pid) - used) / took if not meanwhile else 0.0
    times = dict(events)
    last = sorted(at - times[event] for event, at in seen.last.items())
    return Result(_wrong(plan, seen, agents[0]), seen, last, cores)


def _wrong(plan: Plan, seen: Seen, agent: str) -> int:
    client = ConsulClient(ConsulOptions(address=agent))
    try:
        reader = Reader(ConsulKV(client), Keys(plan.fleet))
        written = Counter(one.id for found in reader.after(NAME, 0, None) for one in found.messages)
    finally:
        client.close()
    ids = [event for event, _ in plan.events]
    in_log = sum(written[event] != 1 for event in ids) + len(written.keys() - set(ids))
    return in_log + sum(seen.count.get(event) != NODES for event in ids) + seen.twice


def _leader(servers: Sequence[ConsulAgent]) -> ConsulAgent:
    alive = [one for one in servers if one.process.running]
    address = alive[0].get("/v1/status/leader")
    return next(one for one in alive if address == f"{one.address}:{one.ports['server']}")


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

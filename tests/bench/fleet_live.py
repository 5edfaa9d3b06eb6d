"""Fired, or published -> live on the last of five nodes, against `consul watch` and a shell script."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.bench.real_fleet import NODES, RealFleet, timed
from tests.bench.rows import Row, p50
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT

CYCLES = int(os.environ.get("FLEET_CYCLES", "50"))
PAUSE = 0.4  # both of agentd's come 1.2 s apart or more, so that its interval of 1 s never holds a reload
_GLUE = "glue-blacklist"
_WITHIN = 15.0  # milliseconds


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """The sides take turns, so that all meet the same machine; each event is fired at the next node."""
    load = os.getloadavg()[0]
    fleet = RealFleet(stack, directory, glue=_GLUE)
    ours, glues = [one.nginx for one in fleet.nodes], [one.nginx for one in fleet.glues]
    fired: list[float] = []
    published: list[float] = []
    watched: list[list[float]] = [[], []]
    time.sleep(3 * PAUSE)  # what made the nodes warm was reloaded for, too
    for cycle in range(CYCLES):
        at = cycle % NODES
        consul = fleet.nodes[at].consul
        fired.append(timed(partial(_fire, fleet, consul, BLACKLIST_EVENT), ours))
        time.sleep(PAUSE)
        watched[0].append(timed(partial(_fire, fleet, consul, _GLUE), glues))
        time.sleep(PAUSE)
        published.append(timed(partial(_publish, fleet, at), ours))
        time.sleep(PAUSE)
        watched[1].append(timed(partial(_fire, fleet, consul, _GLUE), glues))
        time.sleep(PAUSE)
    against = "consul watch + shell script on the same agents"
    load = max(load, os.getloadavg()[0])
    note = f"n={CYCLES}; {p50(fired):.0f} against {p50(watched[0]):.0f} ms; load {load:.1f}"
    what = f"fired -> live on the last of {NODES} nodes"
    yield Row(f"{what}, p50: longer by", "ms", p50(fired) - p50(watched[0]), against, None, _WITHIN, note)
    yield Row(f"{what}, p99", "ms", _p99(fired), against, _p99(watched[0]), 1)
    what = f"published -> live on the last of {NODES} nodes"
    yield Row(f"{what}, p50", "ms", p50(published), against, p50(watched[1]), 0.7)
    yield Row(f"{what}, p99", "ms", _p99(published), against, _p99(watched[1]), 0.7)


def _fire(fleet: RealFleet, consul: ConsulAgent, name: str) -> str:
    address = fleet.address()
    consul.fire(name, f"add {address}".encode())
    return address


def _publish(fleet: RealFleet, at: int) -> str:
    return fleet.publish(through=at)[0]


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]

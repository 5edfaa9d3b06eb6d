"""Sessions missed while ticket keys are rotated every few seconds, against the talk's one-file handler."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.clients import Clients, Tally
from tests.bench.rotations import Trail, at_a_pace, explain, rotate
from tests.bench.rows import Row, p50, spread
from tests.bench.ticket_fleet import EVERY, NODES, OLDEST, RATE, ROTATIONS, Coordinated, OneFile, fire_key
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import start_agents
from tests.servers.nginx import Nginx
from tests.servers.tls import make_certificate

_BEFORE: Final = 2.0  # seconds for which clients bounce before the first rotation
_AFTER: Final = 10.0  # ... and after the last
_GOAL: Final = 2.0


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """First one side, then the other: on two cores they would be in each other's way."""
    certificate = make_certificate(directory)
    agents = start_agents(stack, directory, NODES)
    with ExitStack() as ours:
        fleet = Coordinated(ours, directory / "coordinated", certificate, agents)
        rotate(fleet)  # the first one only brings all nodes to one ring
        trail = Trail(fleet, agents)
        ours.callback(trail.stop)
        trail.start()
        took, found = _bounce(ours, directory / "ours.log", fleet.servers, partial(rotate, fleet))
        load = os.getloadavg()[0]
    explain(found.missed, trail.steps)
    with ExitStack() as theirs:
        one_file = OneFile(theirs, directory / "one-file", certificate, agents)
        act = partial(_fire, agents[0])
        _, watched = _bounce(theirs, directory / "theirs.log", one_file.servers, act)
    if not watched.missed:
        raise RuntimeError("one key is overwritten, and the clients did not notice: this proves nothing")
    what = f"{ROTATIONS} rotations, one every {EVERY:g} s, clients bounce between {NODES} nodes"
    yield Row(
        f"{what}: sessions missed", "", len(found.missed),
        f"the talk's one-file handler, same clients: {len(watched.missed):,} {watched.note()}", None, 0,
        found.note(),
    )  # fmt: skip
    yield Row("... rotations not confirmed", "", ROTATIONS - trail.confirmed, "", None, 0, f"load {load:.1f}")
    what = f"a rotation of {NODES} nodes, as a whole command"
    yield Row(f"{what}, p50", "s", p50(took), "", None, _GOAL, spread(took))
    yield Row("... p99", "s", statistics.quantiles(took, n=100, method="inclusive")[98], "", None, _GOAL)


def _bounce(
    stack: ExitStack, log: Path, servers: Mapping[str, Nginx], act: Callable[[], float]
) -> tuple[list[float], Tally]:
    """Let clients bounce during the rotations; how long each took, and what came of the connections."""
    clients = Clients(log, servers, oldest=OLDEST, rate=RATE)
    stack.callback(clients.stop)
    clients.start()
    time.sleep(_BEFORE)
    took = at_a_pace(act, ROTATIONS, EVERY)
    time.sleep(_AFTER)
    clients.stop()
    return took, clients.tally()


def _fire(through: ConsulAgent) -> float:
    began = time.monotonic()
    fire_key(through)
    return time.monotonic() - began

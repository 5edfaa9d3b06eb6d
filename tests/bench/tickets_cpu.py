"""What a rotation costs: full handshakes, and the processor time of nginx, against the same time without one.

The clients bounce all the while. Times with a rotation and without take turns, and are compared pair by pair.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.clients import Clients
from tests.bench.rotations import explain, rotate
from tests.bench.rows import Row, p50, spread
from tests.bench.ticket_fleet import NODES, OLDEST, RATE, Coordinated
from tests.servers.fleet import start_agents
from tests.servers.nginx import Nginx
from tests.servers.tls import make_certificate

PAIRS: Final = int(os.environ.get("TICKET_PAIRS", "8"))
SECONDS: Final = 20.0
_SAME: Final = 1.05
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Window:
    """Some seconds: connections, full handshakes among them, and seconds of nginx's processor time."""

    connections: int
    full: int
    processor: float


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """On one fleet, whose clients have bounced for as long as a session is offered."""
    certificate = make_certificate(directory)
    agents = start_agents(stack, directory, NODES)
    fleet = Coordinated(stack, directory / "coordinated", certificate, agents)
    rotate(fleet)
    clients = Clients(directory / "clients.log", fleet.servers, oldest=OLDEST, rate=RATE)
    stack.callback(clients.stop)
    clients.start()
    time.sleep(OLDEST)  # from now on as many sessions come as go
    during: list[_Window] = []
    without: list[_Window] = []
    for pair in range(PAIRS):
        for rotates in (pair % 2 == 0, pair % 2 == 1):
            (during if rotates else without).append(_window(fleet, clients, rotates=rotates))
    clients.stop()
    explain(clients.tally().missed)
    ours, theirs = _full(during), _full(without)
    yield Row(
        f"full handshakes in {SECONDS:g} s with a rotation, of 100 connections", "", ours, "without",
        theirs, _SAME, f"{sum(one.connections for one in during):,} connections",
    )  # fmt: skip
    ratios = [one.processor / other.processor for one, other in zip(during, without, strict=True)]
    more = [
        1e3 * (one.processor - other.processor) / NODES for one, other in zip(during, without, strict=True)
    ]
    usual = 1e3 * p50([one.processor for one in without]) / NODES
    yield Row(
        f"processor time of nginx in {SECONDS:g} s with a rotation, p50 of {PAIRS} pairs", "", p50(ratios),
        "without", 1.0, _SAME,
        f"{spread(ratios)}; {p50(more):.0f} ms more a node, to {usual:.0f}",
    )  # fmt: skip


def _window(fleet: Coordinated, clients: Clients, *, rotates: bool) -> _Window:
    servers = list(fleet.servers.values())
    used, began, since = _processor(servers), time.monotonic(), time.time()
    if rotates:
        rotate(fleet)
    time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
    more, found = _processor(servers) - used, clients.tally(since, time.time())
    return _Window(found.offered + found.begun, found.begun + len(found.missed), more)


def _full(windows: Iterable[_Window]) -> float:
    windows = list(windows)
    return 100 * sum(one.full for one in windows) / sum(one.connections for one in windows)


def _processor(servers: Iterable[Nginx]) -> float:
    """Seconds so far of the masters, their workers, and the workers that have ended."""
    return sum(_of(nginx) for nginx in servers)


def _of(nginx: Nginx) -> float:
    master = _stat(nginx.master)
    workers = (_stat(pid)[:2] for pid in (*nginx.workers(), *nginx.draining()))
    return (sum(master) + sum(sum(one) for one in workers)) / _TICKS


def _stat(pid: int) -> list[int]:
    """Ticks in user and system mode, and those of its children that have ended; zeros once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0, 0, 0, 0]
    return [int(field) for field in fields[11:15]]

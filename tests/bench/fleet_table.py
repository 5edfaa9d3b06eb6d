"""`agentd fleet` with 1,000 nodes in real Consul, as a whole command, against one that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rows import Row, p50, spread
from tests.servers.acknowledgers import Acknowledgers
from tests.servers.consul import ConsulAgent

NODES = int(os.environ.get("FLEET_NODES", "1000"))
TIMES = 25
GOAL = 0.2
NEWEST = 1_790_000_000_000


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """In turn with the empty command, so that both meet the same machine; pair by pair."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    fleet = Acknowledgers(consul, "bench")
    fleet.publish(NEWEST)
    for number in range(NODES):
        fleet.join(number)
        fleet.acknowledge(number, NEWEST if number % 50 else NEWEST - number)
    command = [sys.executable, "-m", "agentd", "fleet"]
    where = ["--fleet", "bench", "--http-addr", consul.url]
    ours, empty = [], []
    for _ in range(TIMES):
        empty.append(_timed([*command, "--help"], 0))
        ours.append(_timed([*command, *where], 1))  # some are behind
    more = [one - other for one, other in zip(ours, empty, strict=True)]
    yield Row(
        f"agentd fleet, {NODES} nodes, more than `agentd fleet --help`, p50 of {TIMES}", "s",
        p50(more), "", None, GOAL, f"{p50(ours):.3f} s against {p50(empty):.3f} s; {spread(more)}",
    )  # fmt: skip


def _timed(argv: Sequence[str], status: int) -> float:
    began = time.perf_counter()
    found = subprocess.run(argv, stdout=subprocess.DEVNULL, check=False)
    took = time.perf_counter() - began
    if found.returncode != status:
        raise RuntimeError(f"{argv[3:]} ended with status {found.returncode}")
    return took

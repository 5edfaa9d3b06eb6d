"""What belonging to a fleet costs an idle node: memory, processor, blocking queries, against one without."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.memory import resident
from tests.bench.real_fleet import RealFleet
from tests.bench.rows import Row, p50, spread
from tests.servers.fleet import Node, main_job

PAIRS = 3
SETTLE, SECONDS = 10.0, 60.0


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Beside some nodes a second daemon on the same agent that belongs to no fleet, at the same time."""
    fleet = RealFleet(stack, directory)
    members = fleet.nodes[1 : 1 + PAIRS]
    lone = [_lone(stack, directory, fleet, member) for member in members]
    for member in members:  # as the others, it has seen nothing yet since its start
        member.agentd.stop()
        member.agentd.start()
    time.sleep(SETTLE)
    pairs = list(zip(members, lone, strict=True))
    before, began = [_processor(one) for one in (*members, *lone)], time.monotonic()
    time.sleep(SECONDS)
    took = time.monotonic() - began
    used = [100 * (_processor(one) - was) / took for one, was in zip((*members, *lone), before, strict=True)]
    more = _differences(used[:PAIRS], used[PAIRS:])
    memory = [_memory(member) - _memory(other) for member, other in pairs]
    queries = [_queries(member) - _queries(other) for member, other in pairs]
    load = os.getloadavg()[0]
    yield Row(
        "a node of a fleet, idle: resident memory more", "MB", p50(memory), "", None, 3,
        f"{spread(memory)}; without it {p50([_memory(one) for one in lone]):.1f} MB",
    )  # fmt: skip
    yield Row(
        "a node of a fleet, idle: processor more", "% of a core", p50(more), "", None, 0.1,
        f"{spread(more)}; without it {p50(used[PAIRS:]):.2f}; over {SECONDS:g} s; load {load:.1f}",
    )  # fmt: skip
    yield Row("a node of a fleet, idle: blocking queries more", "", p50(queries), "", None, 1)


def _lone(stack: ExitStack, directory: Path, fleet: RealFleet, member: Node) -> Node:
    node = Node(
        directory / f"l{member.name}",
        fleet.certificate,
        number=int(member.name.removeprefix("node")),
        consul=member.consul,
        handlers=main_job(),
    )
    stack.callback(node.stop)
    return node.start()


def _differences(more: Sequence[float], less: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(more, less, strict=True)]


def _memory(node: Node) -> float:
    return resident(node.agentd.process.pid, descendants=False) / 1e6


def _processor(node: Node) -> float:
    """Processor seconds of the daemon so far; the kernel's own count, which is finer than its ticks."""
    tasks = Path(f"/proc/{node.agentd.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _queries(node: Node) -> int:
    return len(json.loads(node.agentd.get("/status")[1])["queries"])

"""A node that was down for 1,000 messages: how soon after its start all are applied and served."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from tests.bench.real_fleet import RealFleet, await_blocked
from tests.bench.rows import Row, p50, spread
from tests.servers.fleet import Node
from tests.servers.waiting import wait_until

MESSAGES, TIMES, CALM = 1000, 3, 2.0
_APPLIED = "SELECT count(*) FROM changes WHERE handler = 'blacklist' AND outcome = 'applied'"


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Each time another node; its nginx goes on, as under systemd."""
    fleet = RealFleet(stack, directory)
    took, bare = [], []
    for node in fleet.nodes[1 : 1 + TIMES]:
        node.agentd.stop()
        bare.append(_start(node, [], 0))
        node.agentd.stop()
        before = _applied(node)
        addresses = fleet.publish(MESSAGES)
        await_blocked([one.nginx for one in fleet.nodes if one is not node], addresses[-1], seconds=60)
        time.sleep(CALM)  # the others run on a machine of their own elsewhere
        took.append(_start(node, addresses, before + MESSAGES))
    load = os.getloadavg()[0]
    yield Row(
        f"start -> up to date after {MESSAGES} messages, applied and live, p50 of {TIMES}", "s", p50(took),
        "", None, 2, f"{spread(took)}; ready with none to read after {p50(bare):.2f} s; load {load:.1f}",
    )  # fmt: skip


def _start(node: Node, addresses: list[str], applied: int) -> float:
    began = time.monotonic()
    node.agentd.start()
    if addresses:
        await_blocked([node.nginx], addresses[-1])
        wait_until(lambda: _applied(node) >= applied, "all to be applied", pause=0.01)
        took = time.monotonic() - began
        await_blocked([node.nginx], addresses[0], seconds=0)
        return took
    return time.monotonic() - began


def _applied(node: Node) -> int:
    with closing(sqlite3.connect(f"file:{node.journal}?mode=ro", uri=True, timeout=60)) as journal:
        return int(journal.execute(_APPLIED).fetchone()[0])

"""A burst of 200 events on one agent: every one applied, the reloads merged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rows import Row
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

EVENTS = 200


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Block 200 addresses as fast as the agent takes the events."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    node = Node(directory / "n", make_certificate(directory), number=1, consul=consul, handlers=main_job())
    stack.callback(node.stop)
    node.start()
    began = time.monotonic()
    for number in range(EVENTS):
        consul.fire(BLACKLIST_EVENT, f"add 198.51.{number}.1".encode())
    fired = time.monotonic() - began
    wait_until(lambda: len(_ended(node)) >= EVENTS, "200 outcomes", seconds=60, pause=0.2)
    took = time.monotonic() - began
    outcomes = _ended(node)
    applied = sum(outcome == "applied" for outcome in outcomes)
    refused = node.nginx.get(client=f"198.51.{EVENTS - 1}.1")[0] == 403
    reloads = node.nginx.error_log.read_text().count("signal 1 (SIGHUP) received from")
    yield Row(
        f"burst of {EVENTS} events: not applied", "", EVENTS - applied + (not refused),
        "events fired", None, 0,
        f"fired in {fired:.2f} s, all done after {took:.2f} s",
    )  # fmt: skip
    yield Row(f"burst of {EVENTS} events: reloads", "", reloads, "events fired", EVENTS, 0.1)


def _ended(node: Node) -> list[str]:
    done = node.agentd.command("history", "--json", "--handler", "blacklist", "--limit", "1000")
    entries = json.loads(done.stdout)
    return [entry["outcome"] for entry in entries if entry["kind"] == "event" and entry["outcome"]]

"""Event fired -> handler entered: agentd against `consul watch` with a shell handler, on one agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rows import Row, p50, spread
from tests.bench.watch import ConsulWatch
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

EVENTS = 200
PAUSE = 0.05  # between two events, as an operator's never come closer; a burst has a bench of its own


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Fire to each in turn, so that both meet the same machine."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    ours, theirs = directory / "ours", directory / "theirs"
    handlers = {
        "stamp": {
            "use": "tests.bench.stamp:Stamp",
            "on": [{"event": "bench-agentd"}],
            "options": {"file": str(ours)},
        }
    }
    node = Node(directory / "n", make_certificate(directory), number=1, consul=consul, handlers=handlers)
    stack.callback(node.stop)
    node.agentd.start()
    script = directory / "handler.sh"
    script.write_text(f'#!/bin/bash\necho "$EPOCHREALTIME" >> {theirs}\n')
    script.chmod(0o755)
    theirs.touch()
    ours.touch()
    watch = ConsulWatch(consul, "bench-watch", script)
    stack.callback(watch.stop)
    watch.start()
    _settle(consul, theirs)
    took: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(EVENTS):
        took["ours"].append(_one(consul, "bench-agentd", ours, number))
        time.sleep(PAUSE)
        took["theirs"].append(_one(consul, "bench-watch", theirs, number))
        time.sleep(PAUSE)
    yield Row(
        f"event fired -> handler entered, p50 of {EVENTS}", "ms", p50(took["ours"]) * 1e3,
        "consul watch + shell handler", p50(took["theirs"]) * 1e3, 0.5,
        spread([1e3 * x for x in took["ours"]]),
    )  # fmt: skip


def _settle(consul: ConsulAgent, theirs: Path) -> None:
    """The watch is up once it has seen one event."""
    consul.fire("bench-watch", b"warm-up")
    wait_until(theirs.read_text, "consul watch to run its handler")


def _one(consul: ConsulAgent, name: str, file: Path, number: int) -> float:
    size = len(file.read_text().splitlines())
    fired = time.time()
    consul.fire(name, str(number).encode())
    lines = wait_until(lambda: file.read_text().splitlines()[size:], f"{name} {number}", pause=0.002)
    return float(lines[-1].split()[-1]) - fired

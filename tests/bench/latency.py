"""Event fired -> handler entered: agentd, `consul watch` with a shell handler, and a bare poll loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rows import Row, p50, spread
from tests.bench.watch import ConsulWatch
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.process import ServerProcess
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

EVENTS = 200
PAUSE = 0.05  # between two events, as an operator's never come closer; a burst has a bench of its own
SIDES = ("agentd", "watch", "bare")


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Fire to each in turn, so that all meet the same machine."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    files = {side: directory / side for side in SIDES}
    for file in files.values():
        file.touch()
    _start_agentd(stack, directory, consul, files["agentd"])
    _start_watch(stack, directory, consul, files["watch"])
    _start_bare(stack, directory, consul, files["bare"])
    for side, file in files.items():
        consul.fire(f"bench-{side}", b"warm-up")
        wait_until(file.read_text, f"{side} to see its first event")
    took: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(EVENTS):
        for side, file in files.items():
            took[side].append(1e3 * _one(consul, f"bench-{side}", file, number))
            time.sleep(PAUSE)
    ours, watch, bare = (took[side] for side in SIDES)
    yield Row(
        f"event fired -> handler entered, p50 of {EVENTS}", "ms", p50(ours),
        "consul watch + shell handler", p50(watch), 0.5, spread(ours),
    )  # fmt: skip
    yield Row(
        f"event fired -> handler entered, p50 of {EVENTS}", "ms", p50(ours),
        "a bare poll loop in Python", p50(bare), 1.5, spread(bare),
    )  # fmt: skip


def _start_agentd(stack: ExitStack, directory: Path, consul: ConsulAgent, file: Path) -> None:
    handlers = {
        "stamp": {
            "use": "tests.bench.stamp:Stamp",
            "on": [{"event": "bench-agentd"}],
            "options": {"file": str(file)},
        }
    }
    node = Node(directory / "n", make_certificate(directory), number=1, consul=consul, handlers=handlers)
    stack.callback(node.stop)
    node.agentd.start()


def _start_watch(stack: ExitStack, directory: Path, consul: ConsulAgent, file: Path) -> None:
    script = directory / "handler.sh"
    script.write_text(f'#!/bin/bash\necho "$EPOCHREALTIME" >> {file}\n')
    script.chmod(0o755)
    watch = ConsulWatch(consul, "bench-watch", script)
    stack.callback(watch.stop)
    watch.start()


def _start_bare(stack: ExitStack, directory: Path, consul: ConsulAgent, file: Path) -> None:
    address = f"{consul.address}:{consul.ports['http']}"
    argv = [sys.executable, "-m", "tests.bench.bare_poll", address, "bench-bare", str(file)]
    bare = ServerProcess(argv, directory / "bare.log", environment={})
    stack.callback(bare.stop)
    bare.start(lambda: True)


def _one(consul: ConsulAgent, name: str, file: Path, number: int) -> float:
    size = len(file.read_text().splitlines())
    fired = time.time()
    consul.fire(name, str(number).encode())
    lines = wait_until(lambda: file.read_text().splitlines()[size:], f"{name} {number}", pause=0.002)
    return float(lines[-1].split()[-1]) - fired

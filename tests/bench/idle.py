"""50 queries idle: resident memory and processor time; and start to READY."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.memory import resident
from tests.bench.rows import Row, p50, spread
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node, main_job
from tests.servers.tls import make_certificate

QUERIES = 50
SETTLE, SECONDS = 10.0, 30.0
STARTS = 7


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """The daemon with the main job and 50 keys to watch."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    keys = {
        f"key-{number}": {"use": "command", "on": [{"key": f"bench/{number}"}], "options": {"argv": ["true"]}}
        for number in range(1)
    }
    keys["key-0"]["on"] = [{"key": f"bench/{number}"} for number in range(QUERIES - 1)]  # and the event poll
    handlers = main_job() | keys
    node = Node(directory / "n", make_certificate(directory), number=1, consul=consul, handlers=handlers)
    stack.callback(node.stop)
    node.start()
    time.sleep(SETTLE)
    before, began = _cpu(node), time.monotonic()
    time.sleep(SECONDS)
    percent = 100 * (_cpu(node) - before) / (time.monotonic() - began)
    memory = resident(node.agentd.process.pid, descendants=False) / 1e6
    yield Row(f"{QUERIES} queries idle: resident memory", "MB", memory, "", None, 48)
    yield Row(
        f"{QUERIES} queries idle: processor", "% of a core", percent, "", None, 0.5, f"over {SECONDS:g} s"
    )

    node.stop()
    # Another agent: Consul holds the slots of polls that were left, 50 a start, until their wait is over.
    (directory / "fresh").mkdir()
    fresh = ConsulAgent(directory / "fresh")
    stack.callback(fresh.stop)
    fresh.start()
    node.config["consul"]["address"] = f"{fresh.address}:{fresh.ports['http']}"
    node.config["handlers"] = main_job()
    node.configure()
    starts = [_start_to_ready(node, directory) for _ in range(STARTS)]
    yield Row(f"start to READY, p50 of {STARTS}", "s", p50(starts), "", None, 0.7, spread(starts))


def _start_to_ready(node: Node, directory: Path) -> float:
    """From the exec of `agentd run` to READY=1, as systemd sees it."""
    path = directory / "notify.sock"
    path.unlink(missing_ok=True)
    argv = [str(Path(sys.executable).with_name("agentd")), "run", "--config", str(node.configuration)]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        (directory / "start.log").open("ab") as log,
    ):
        notify.bind(str(path))
        notify.settimeout(20)
        began = time.monotonic()
        process = subprocess.Popen(
            argv, env=os.environ | {"NOTIFY_SOCKET": str(path)}, stderr=log, stdout=log
        )
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            return time.monotonic() - began
        finally:
            process.terminate()
            process.wait(20)


def _cpu(node: Node) -> float:
    """Processor seconds, user and system, of the daemon's threads so far."""
    numbers = Path(f"/proc/{node.agentd.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

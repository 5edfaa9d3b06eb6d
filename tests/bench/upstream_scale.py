"""1,000 instances in one service, of which 10 % change at once: one commit, one reload."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.bench.rows import Row, spread
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.site import Site
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

NODES, EACH = 10, 100
CHANGES = 20
PAUSE = 1.3  # longer than agentd's interval, which would hold a reload
_TRANSACTION = 64  # operations that Consul takes in one


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """One machine of ten, with 100 instances, fails and recovers, again and again."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    site = Site(partial(Node, directory / "n", make_certificate(directory), number=1), consul)
    stack.callback(site.node.stop)
    site.node.config["handlers"]["nginx-reload"]["options"] = {}  # the default interval
    site.node.configure()
    _register_all(site)
    site.node.start()
    wait_until(lambda: site.file().count("server ") == NODES * EACH, "all servers in the file", seconds=30)
    time.sleep(2)
    before, reloads = site.node.generation, _reloads(site)
    took = []
    for number in range(CHANGES):
        took.append(_change(site, "critical" if number % 2 == 0 else "passing"))
        time.sleep(PAUSE)
    yield Row(
        f"{NODES * EACH} instances, 10 % changing at once -> proved live, p95 of {CHANGES}", "s",
        sorted(took)[round(0.95 * CHANGES) - 1], "", None, 0.5, spread(took),
    )  # fmt: skip
    yield Row("... commits a change", "", (site.node.generation - before) / CHANGES, "", None, 1)
    yield Row("... reloads a change", "", (_reloads(site) - reloads) / CHANGES, "", None, 1)


def _register_all(site: Site) -> None:
    """Instances on machines that run no agent, so that the whole of a machine can fail in one instant."""
    for number in range(NODES):
        _machine(site, number, "passing")
        operations = [
            {"Service": {"Verb": "set", "Node": f"m{number}", "Service": _service(site, number, one)}}
            for one in range(EACH)
        ]
        for start in range(0, EACH, _TRANSACTION):
            site.consul.put("/v1/txn", operations[start : start + _TRANSACTION])


def _service(site: Site, number: int, one: int) -> dict[str, object]:
    address = f"10.0.{number}.{one + 1}"
    return {"Service": site.service, "ID": f"{site.service}-{number}-{one}", "Address": address, "Port": 80}


def _machine(site: Site, number: int, status: str) -> None:
    check = {"Node": f"m{number}", "CheckID": "alive", "Name": "alive", "Status": status}
    site.consul.put(
        "/v1/catalog/register", {"Node": f"m{number}", "Address": f"10.0.{number}.1", "Check": check}
    )


def _change(site: Site, status: str) -> float:
    """Seconds until a new generation is served, which has just the servers that are left."""
    before, began = _canary(site), time.monotonic()
    _machine(site, NODES - 1, status)
    wait_until(lambda: _canary(site) not in (b"", before), "the new generation", pause=0.001)
    took = time.monotonic() - began
    expected = NODES * EACH - (EACH if status == "critical" else 0)
    if (found := site.file().count("server ")) != expected:
        raise RuntimeError(f"{found} servers where {expected} are fit")
    return took


def _canary(site: Site) -> bytes:
    """The generation served."""
    try:
        with socket.socket(socket.AF_UNIX) as canary:
            canary.connect(str(site.node.nginx.canary))
            canary.sendall(b"GET /generation HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: canary.recv(4096), b"")).partition(b"\r\n\r\n")[2].split()[0]
    except (OSError, IndexError):
        return b""


def _reloads(site: Site) -> int:
    return site.node.nginx.error_log.read_text().count("signal 1 (SIGHUP) received from")

"""Requests in flight while a server is taken down and put up, again and again: none may fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import urllib3

from tests.bench.rows import Row
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.site import Site
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

CYCLES = 20
CLIENTS = 8
PAUSE = 0.3
DELAY = 0.03  # so that requests are in flight at every change


class Client(threading.Thread):
    """One client after the other's heels: a connection kept alive, a request at a time."""

    def __init__(self, site: Site, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.failed: list[str] = []
        self._site = site
        self._ended = stop

    def run(self) -> None:
        """Ask until told to stop."""
        nginx = self._site.node.nginx
        with urllib3.HTTPConnectionPool(nginx.address, nginx.port, timeout=5, retries=False) as pool:
            while not self._ended.is_set():
                self.sent += 1
                try:
                    answer = pool.request("GET", "/via/api")
                except urllib3.exceptions.HTTPError as error:
                    self.failed.append(repr(error))
                else:
                    if answer.status != 200:
                        self.failed.append(str(answer.status))


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Through the run-time interface, while agentd compares every 200 ms."""
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    node = partial(Node, directory / "n", make_certificate(directory), number=1)
    site = Site(node, consul, driver="dynamic")
    stack.callback(site.node.stop)
    site.start(3)
    for backend in site.backends:
        backend.delay = DELAY
    stop = threading.Event()
    stack.callback(stop.set)
    clients = [Client(site, stop) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    served = [_cycle(site) for _ in range(CYCLES)]
    stop.set()
    for client in clients:
        client.join(10)
    failed = [failure for client in clients for failure in client.failed]
    sent = sum(client.sent for client in clients)
    yield Row(
        f"requests failed during {CYCLES} up/down cycles", "", len(failed), "", None, 0,
        f"of {sent} under load" + (f"; such as {failed[0]}" if failed else ""),
    )  # fmt: skip
    yield Row("... requests served by a server while it was down", "", sum(served), "", None, 0)


def _cycle(site: Site) -> int:
    """Down, and up again. Returns how many new requests the server got meanwhile."""
    first = site.backends[0]
    _set(site, "down")
    time.sleep(2 * DELAY)  # what was in flight has arrived
    before = first.asked
    time.sleep(PAUSE)
    after = first.asked
    _set(site, "up")
    wait_until(lambda: first.asked > after, "the server to serve again")
    return after - before


def _set(site: Site, how: str) -> None:
    if site.lua is None or site.lua.ask(f"upstream=api&server={site.backends[0].address}&{how}=")[0] != 200:
        raise RuntimeError(f"the interface did not take {how}")

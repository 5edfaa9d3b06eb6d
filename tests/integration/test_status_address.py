"""The status address of a real daemon while somebody on the node holds connections to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from statistics import median

from agentd.report import listener
from tests.servers.fleet import Node, main_job
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
Address = tuple[str, int]


def _idle(address: Address, stop: threading.Event) -> None:
    """Say nothing; connect again at once when dropped."""
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(address, timeout=1) as connection:
            while not stop.is_set():
                with suppress(TimeoutError):
                    if not connection.recv(1):
                        break


def _drip(address: Address, stop: threading.Event) -> None:
    """Never end the head."""
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(address, timeout=1) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            while not stop.wait(0.1):
                connection.sendall(b"x")


def _read_slowly(address: Address, stop: threading.Event) -> None:
    """Ask for what takes the daemon longest, and hardly read it."""
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(address, timeout=1) as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while connection.recv(1) and not stop.wait(0.1):
                pass


def _ask(address: Address, stop: threading.Event) -> None:
    """Ask for it over and over."""
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(address, timeout=1) as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while connection.recv(65536):
                pass


@contextmanager
def hostile_clients(address: Address) -> Iterator[None]:
    """40 idle ones, 10 that drip, 10 that read slowly and 2 that ask all the time."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=target, args=(address, stop), daemon=True)
        for target, count in ((_idle, 40), (_drip, 10), (_read_slowly, 10), (_ask, 2))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_who_holds_connections_keeps_nobody_from_health_and_metrics(new_node: NewNode) -> None:
    """Each of 50 requests for either is answered, soon; what was dropped is counted."""
    node = new_node(handlers=main_job()).start()
    host, port = str(node.config["status"]["address"]).split(":")

    took = []
    with hostile_clients((host, int(port))):
        for path in ("/healthz", "/metrics") * 50:
            began = time.monotonic()
            assert node.agentd.get(path)[0] == 200
            took.append(time.monotonic() - began)
        line = 'dropped_total{reason="head"}'
        wait_until(lambda: line in node.agentd.get("/metrics")[1], "what was dropped to be counted")

    assert median(took) < listener.HEAD_TIMEOUT  # whoever waited for a place would wait for that

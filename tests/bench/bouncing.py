"""Clients that begin a TLS session on one server and resume it on others: `python -m tests.bench.bouncing`.

A process of its own, so that it takes no turn from whoever drives the servers. It owns the sessions and the
lines that it logs, one for each connection; what they come to is for whoever reads them (`clients.py`).
"""

from __future__ import annotations

import heapq
import json
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Final

VERSIONS: Final = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_PATIENCE: Final = 3.0  # seconds for a connection
_SOON: Final = 0.5
_SPARE: Final = 2.0  # seconds before its time is over, from which a session is not offered any more
_REQUEST: Final = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Plan:
    """What the clients do.

    Attributes:
        log: where each connection is logged, as a line of JSON.
        servers: by the name of the node, address and port.
        oldest: seconds for which a session is offered after it began.
        rate: connections a second, over all threads.
        threads: how many of them connect at the same time.
    """

    log: str
    servers: Mapping[str, tuple[str, int]]
    oldest: float
    rate: float
    threads: int = 4


@dataclass(frozen=True)
class Connection:
    """One connection, as it is logged.

    Attributes:
        at: unix time at which it began.
        node: with whom.
        version: of TLS.
        outcome: "begun" if it had no session to offer, "resumed", "missed" (a session was offered, and the
            handshake was a full one), or "error".
        issuer: which node issued the session that was offered; "" if none was.
        issued: when.
        reason: of an error.
    """

    at: float
    node: str
    version: str
    outcome: str
    issuer: str = ""
    issued: float = 0.0
    reason: str = ""


@dataclass(order=True)
class _Session:
    """A session and when it is offered, and how often still; the ticket is the first that came."""

    due: float
    tie: int
    issuer: str = field(compare=False)
    issued: float = field(compare=False)
    session: ssl.SSLSession = field(compare=False)
    context: ssl.SSLContext = field(compare=False)
    later: list[float] = field(compare=False)


class _Client:
    """One thread: it begins sessions, and offers each to other servers at once, a little and much later."""

    def __init__(self, plan: Plan, log: _Log) -> None:
        self._plan = plan
        self._log = log
        self._sessions: list[_Session] = []
        self._ties = count()
        # The certificate is not what is measured, and a session belongs to one context.
        self._contexts = [_context(version) for version in VERSIONS]
        self._turn = count(random.randrange(2))

    def run(self, over: threading.Event) -> None:
        """Connect at an even pace until it is over."""
        pause = self._plan.threads / self._plan.rate
        at = time.monotonic() + random.uniform(0, pause)
        while not over.wait(max(0.0, at - time.monotonic())):
            at = max(at + pause, time.monotonic() - pause)  # what was missed is not made up for at once
            if self._sessions and self._sessions[0].due <= time.time():
                self._offer(heapq.heappop(self._sessions))
            else:
                self._begin()

    def _begin(self) -> None:
        context = self._contexts[next(self._turn) % 2]
        node = random.choice(list(self._plan.servers))
        at = time.time()
        session, connection = self._connect(context, node, None)
        if connection.outcome == "begun" and not (session and session.has_ticket):
            connection = replace(connection, outcome="error", reason="no ticket was issued")
        self._log.add(connection)
        if session is None or connection.outcome == "error":
            return
        until = min(self._plan.oldest, session.ticket_lifetime_hint - _SPARE)
        ages = sorted((random.uniform(0, _SOON), random.uniform(0, until / 5), random.uniform(0, until)))
        later = [at + age for age in ages]
        heapq.heappush(
            self._sessions,
            _Session(later.pop(0), next(self._ties), node, at, session, context, later),
        )

    def _offer(self, one: _Session) -> None:
        if time.time() - one.issued > self._plan.oldest:
            return  # it waited for its turn until it was too old
        node = random.choice([other for other in self._plan.servers if other != one.issuer])
        _, connection = self._connect(one.context, node, one)
        self._log.add(connection)
        if one.later and connection.outcome != "missed":
            one.due = one.later.pop(0)
            heapq.heappush(self._sessions, one)

    def _connect(
        self, context: ssl.SSLContext, node: str, offered: _Session | None
    ) -> tuple[ssl.SSLSession | None, Connection]:
        at, version = time.time(), context.minimum_version.name
        issuer, issued = (offered.issuer, offered.issued) if offered else ("", 0.0)
        host, port = self._plan.servers[node]
        try:
            with (
                socket.create_connection((host, port), timeout=_PATIENCE) as plain,
                context.wrap_socket(
                    plain, server_hostname="localhost", session=offered.session if offered else None
                ) as connection,
            ):
                connection.sendall(_REQUEST)
                # A ticket of TLS 1.3 comes after the handshake: only who reads the answer has it.
                while connection.recv(65536):
                    pass
                reused, session = connection.session_reused, connection.session
        except OSError as error:
            return None, Connection(
                at, node, version, "error", issuer, issued, f"{type(error).__name__}: {error}"
            )
        outcome = "begun" if offered is None else "resumed" if reused else "missed"
        return session, Connection(at, node, version, outcome, issuer, issued)


class _Log:
    """The lines, written from several threads."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)
        self._lock = threading.Lock()

    def add(self, connection: Connection) -> None:
        """Write one."""
        line = json.dumps(asdict(connection))
        with self._lock:
            self._file.write(f"{line}\n")


def read(log: Path) -> Iterator[Connection]:
    """What was logged so far."""
    with log.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Connection(**json.loads(line))


def _context(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def main(arguments: Sequence[str]) -> None:
    """Run the plan, given as JSON, until the end of standard input."""
    plan = Plan(**json.loads(arguments[0]))
    log, over = _Log(Path(plan.log)), threading.Event()
    clients = [threading.Thread(target=_Client(plan, log).run, args=(over,)) for _ in range(plan.threads)]
    for one in clients:
        one.start()
    sys.stdin.read()
    over.set()
    for one in clients:
        one.join()


if __name__ == "__main__":
    main(sys.argv[1:])

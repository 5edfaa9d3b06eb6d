"""A small HTTP server for loopback: bounded in connections, in time and in what it reads.

Owns the socket and the threads; what is answered, its caller decides. It reads a request's head and never a
body, answers once and closes.

The standard library's server is not used: it waits for ever for a slow client's next byte, and quotes in its
errors what it was sent.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import structlog

from agentd.errors import AgentdError, ConfigError
from agentd.report.request import Answer, BadRequest, encode, parse

_log = structlog.get_logger()

REQUEST_TIMEOUT: Final = 5.0  # seconds for a whole request and its answer
LARGEST_HEAD: Final = 8192  # bytes of request line and headers
MOST_CONNECTIONS: Final = 16

_ACCEPT_WAIT: Final = 5.0


class Beating(Protocol):
    """A heartbeat; see `heartbeat.Heartbeat`."""

    def beat(self, good_for: float) -> None:
        """Promise to beat again within `good_for` seconds."""


class Listener:
    """Listens from `start` to `stop`; each connection is served once, by a thread of its own.

    Args:
        address: loopback address and port; port 0 takes a free one, see `address`.
        answer: from the path, without its query string, to the answer; called from many threads.
        heartbeat: beats while connections are accepted.
    """

    def __init__(
        self, address: tuple[str, int], answer: Callable[[str], Answer], heartbeat: Beating | None = None
    ) -> None:
        self.address = address
        self._answer = answer
        self._heartbeat = heartbeat
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._serving: dict[threading.Thread, socket.socket] = {}
        self._thread = threading.Thread(target=self._accept, name="status", daemon=True)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Bind, and accept from now on.

        Raises:
            ConfigError: the address is taken, or cannot be used.
        """
        self._socket = _bound(self.address)
        self.address = self._socket.getsockname()[:2]
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and wait until every thread has ended; a second call does nothing."""
        if self._socket is None:
            return
        self._stopping.set()
        _shut(self._socket)  # wakes accept()
        self._thread.join()
        self._socket.close()
        self._socket = None
        with self._lock:
            serving = list(self._serving.items())
        for thread, connection in serving:
            _shut(connection)
            thread.join(REQUEST_TIMEOUT)

    # ------------------------------------------------------------------ accepting

    def _accept(self) -> None:
        listening = self._socket
        assert listening is not None  # noqa: S101 (start() made it; tells mypy)
        while not self._stopping.is_set():
            if self._heartbeat is not None:
                self._heartbeat.beat(3 * _ACCEPT_WAIT)
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            except OSError as error:  # no descriptor left, or stop() shut the socket
                if not self._stopping.wait(0.1):
                    _log.warning("status.accept_failed", error=str(error))
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._serving) >= MOST_CONNECTIONS:
                connection.close()  # nothing is owed to the one too many; answering it could block
                return
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="status-request", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # no thread left: the process's limit is reached
                connection.close()
                _log.warning("status.accept_failed", error=str(error))
            else:
                self._serving[thread] = connection

    # ------------------------------------------------------------------ serving

    def _serve(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + REQUEST_TIMEOUT
        try:
            self._exchange(connection, deadline)
        except OSError:  # the client is too slow, or gone
            return
        finally:
            connection.close()
            with self._lock:
                self._serving.pop(threading.current_thread(), None)

    def _exchange(self, connection: socket.socket, deadline: float) -> None:
        method = b"GET"
        try:
            method, path = parse(_read_head(connection, deadline))
            answer = self._asked(path)
        except BadRequest as error:
            answer = Answer(error.status, f"{error.status.phrase}\n".encode(), "text/plain")
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        connection.sendall(encode(answer, body=method != b"HEAD"))
        connection.shutdown(socket.SHUT_WR)
        _drain(connection, deadline)

    def _asked(self, path: str) -> Answer:
        try:
            return self._answer(path)
        except (AgentdError, OSError) as error:
            _log.warning("status.failed", path=path, error=str(error))
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n", "text/plain")


def _bound(address: tuple[str, int]) -> socket.socket:
    host, port = address
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        hint = "something else listens there; " if error.errno == errno.EADDRINUSE else ""
        why = f"{error.strerror}; {hint}choose another, or null"
        raise ConfigError([f"status.address: cannot listen on {host} port {port}: {why}"]) from error
    listening.settimeout(_ACCEPT_WAIT)
    return listening


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) >= LARGEST_HEAD:
            raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        connection.settimeout(max(0.001, deadline - time.monotonic()))  # for all reads together
        received = connection.recv(LARGEST_HEAD - len(head))
        if not received:
            raise ConnectionError("closed before the end of the request")
        head += received
    return head.partition(b"\r\n\r\n")[0]


def _drain(connection: socket.socket, deadline: float) -> None:
    """Read what the client still sends: closing over unread bytes would reset the connection."""
    for _ in range(16):
        connection.settimeout(max(0.001, min(1.0, deadline - time.monotonic())))
        if not connection.recv(LARGEST_HEAD):
            return


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is gone already
        return

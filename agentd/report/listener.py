"""A small HTTP and HTTPS server: bounded in connections, in time, in what it reads and in threads.

Owns the socket and the threads; its caller decides what is answered. It reads the head of a request and never
a body, answers once and closes. One thread waits for all clients at once, so that an idle or slow one costs
nothing but its place; `answers` makes what is answered. If all places are taken, the connection that has
waited longest is dropped for the new one.

The standard library's server is not used: it waits indefinitely for a slow client's next byte, and its errors
quote what it was sent.
"""

from __future__ import annotations

import errno
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Literal, NoReturn

import structlog

from agentd.errors import ConfigError
from agentd.heartbeat import Heartbeat
from agentd.options import StatusOptions
from agentd.report.access import Access
from agentd.report.answers import Answers
from agentd.report.connection import Blocked, Connection
from agentd.report.request import BadRequest, Response, encode, parse

_log = structlog.get_logger()

HEAD_TIMEOUT: Final = 2.0  # seconds for the handshake of TLS and the head of a request
ANSWER_TIMEOUT: Final = 3.0  # seconds for a client to take its answer
GUESS_DELAY: Final = 1.0  # seconds until a wrong token is answered
LARGEST_HEAD: Final = 8192  # bytes of request line and headers
MOST_CONNECTIONS: Final = 256

_ACCEPT_WAIT: Final = 5.0
_YOUNG: Final = 0.05  # seconds for which a connection is not dropped for a new one, which waits in the kernel
_BACKLOG: Final = 4096  # connections that the kernel holds until they are accepted, unless it allows fewer
_AT_ONCE: Final = 64  # connections that are accepted before those that are open have their turn
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
_MOST_DRAINED: Final = 16  # pieces of a body that are read, lest the client be reset before it has its answer

Dropped = Literal["full", "head", "answer"]
"""Why: a new one needed its place, or the time for the head or for taking the answer was up."""


class Listener:
    """Listens from `start` to `stop`; each connection is for one request.

    Args:
        address: address and port; port 0 takes a free one, see `address`.
        answer: makes the response to a path (its query string removed); called from several threads.
        heartbeat: beaten while connections are accepted.
        dropped: called for each connection that was dropped before it had its answer.
        access: who is answered, and how connections are secured.
    """

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[str], Response],
        heartbeat: Heartbeat | None = None,
        dropped: Callable[[Dropped], None] = lambda _: None,
        access: Access | None = None,
    ) -> None:
        self.address = address
        self._heartbeat = heartbeat
        self._dropped = dropped
        self._access = access or Access(StatusOptions())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._answers: Answers[Connection] = Answers(answer, self._wake)
        self._open: dict[int, Connection] = {}  # by descriptor, the oldest first
        self._selector = selectors.DefaultSelector()
        self._socket: socket.socket | None = None
        self._accepts_at: float | None = 0.0  # when it accepts again; None: it does
        self._failing = False

    def start(self) -> None:
        """Bind, and accept from now on.

        Raises:
            ConfigError: the address is taken, or cannot be used.
        """
        self._socket = _bound(self.address)
        self.address = self._socket.getsockname()[:2]
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)  # noqa: FBT003 (likewise)
        self._waker.setblocking(False)  # noqa: FBT003 (likewise)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and wait until every thread has ended; a second call does nothing."""
        if self._socket is None:
            return
        self._stopping.set()
        self._wake()
        self._thread.join()
        self._answers.stop(ANSWER_TIMEOUT)
        for connection in list(self._open.values()):
            self._close(connection)
        self._selector.close()
        for one in (self._socket, self._woken, self._waker):
            one.close()
        self._socket = None

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:  # it is awake, or gone
            return

    # ------------------------------------------------------------------ the one thread that waits

    def _run(self) -> None:
        assert self._socket is not None  # noqa: S101 (start() made it; tells mypy)
        while not self._stopping.is_set():
            if self._heartbeat is not None:
                self._heartbeat.beat(3 * _ACCEPT_WAIT)
            ready = self._selector.select(self._until_next())
            for key, _ in ready:
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                elif connection := self._open.get(key.fd):
                    self._go_on(connection)
            for connection, response in self._answers.made():
                if connection.client.fileno() >= 0:  # it was not dropped meanwhile
                    self._begin_answer(connection, response)
            self._end_late()
            self._accept(self._socket)

    def _until_next(self) -> float:
        """Seconds until something is due that no client brings about."""
        due = [one.deadline for one in self._open.values() if one.deadline is not None]
        if self._accepts_at is not None:
            due.append(self._accepts_at)
        return min([_ACCEPT_WAIT, *(max(0.0, at - time.monotonic()) for at in due)])

    def _end_late(self) -> None:
        now = time.monotonic()
        for connection in list(self._open.values()):
            if connection.deadline is None or connection.deadline > now:
                continue
            if connection.delayed is not None:
                self._begin_answer(connection, connection.delayed)
            else:
                self._drop(connection, "head" if connection.unsent is None else "answer")

    def _accept(self, listening: socket.socket) -> None:
        """Take what waits in the kernel, as far as there is room; some at a time, as more may come."""
        if self._accepts_at is not None and self._accepts_at > time.monotonic():
            return
        for _ in range(_AT_ONCE):
            if not self._make_room(listening):
                return
            try:
                client, _ = listening.accept()
            except BlockingIOError:
                self._listen(listening, None)
                return
            except OSError as error:  # no descriptor left, for example
                if not self._failing:
                    _log.warning("status.accept_failed", error=str(error))
                self._failing = True
                if error.errno in _NO_DESCRIPTOR and self._drop_oldest():
                    continue
                self._listen(listening, time.monotonic() + _YOUNG)
                return
            self._failing = False
            try:
                connection = Connection(client, self._access.context(), HEAD_TIMEOUT)
            except OSError:  # it is gone already
                continue
            self._open[connection.client.fileno()] = connection
            self._selector.register(connection.client, selectors.EVENT_READ, connection)
            self._go_on(connection)  # a client that has sent its request is served, whoever comes next
        self._listen(listening, None)

    def _listen(self, listening: socket.socket, at: float | None) -> None:
        """Look for new connections from then on; None: at once."""
        known = listening in self._selector.get_map()
        if at is None and not known:
            self._selector.register(listening, selectors.EVENT_READ)
        elif at is not None and known:
            self._selector.unregister(listening)
        self._accepts_at = at

    def _make_room(self, listening: socket.socket) -> bool:
        """Drop the oldest connection if all places are taken and one is wanted; False if that has to wait."""
        if len(self._open) < MOST_CONNECTIONS:
            return True
        if not _has_callers(listening):
            self._listen(listening, None)
            return False
        if self._drop_oldest():
            return True
        self._listen(listening, time.monotonic() + _YOUNG / 4)
        return False

    def _drop_oldest(self) -> bool:
        """Drop who has waited longest for a client; for an answer in the making only if there is no other.

        Returns:
            Whether one was dropped: a young one is not.
        """
        idle = (one for one in self._open.values() if one.deadline is not None)
        oldest = next(idle, None) or next(iter(self._open.values()), None)
        if oldest is None or time.monotonic() - oldest.since < _YOUNG:
            return False
        self._drop(oldest, "full")
        return True

    # ------------------------------------------------------------------ one connection

    def _go_on(self, connection: Connection) -> None:
        """Read or write what can be without waiting."""
        try:
            if connection.unsent is None:
                self._read_head(connection)
            elif connection.unsent:
                connection.send()
                self._watch(connection, selectors.EVENT_READ)
            else:
                self._drain(connection)
        except Blocked as blocked:
            self._watch(connection, blocked.event)
        except OSError:  # the client is gone, or does not speak TLS
            self._close(connection)

    def _watch(self, connection: Connection, event: int) -> None:
        """Go on with it once this happens."""
        if connection.client not in self._selector.get_map():
            self._selector.register(connection.client, event, connection)
        else:
            self._selector.modify(connection.client, event, connection)

    def _read_head(self, connection: Connection) -> None:
        received = connection.receive(LARGEST_HEAD - len(connection.head))
        if not received:
            self._close(connection)
            return
        connection.head += received
        head, end, _ = connection.head.partition(b"\r\n\r\n")
        if not end and len(head) < LARGEST_HEAD:
            self._watch(connection, selectors.EVENT_READ)
            return
        try:
            request = parse(head) if end else _too_large()
        except BadRequest as error:
            text = f"{error.status.phrase}\n".encode()
            self._begin_answer(connection, Response(error.status, text, "text/plain"))
            return
        connection.body = request.method != "HEAD"
        if refusal := self._access.refusal(request):
            self._refuse(connection, refusal, guessed=bool(request.authorization))
            return
        connection.deadline = None
        self._selector.unregister(connection.client)
        self._answers.ask(request.path, connection)

    def _refuse(self, connection: Connection, refusal: Response, *, guessed: bool) -> None:
        """Answer that; late, if a token was guessed: so each place allows one guess in so many seconds."""
        if not guessed:
            self._begin_answer(connection, refusal)
            return
        self._selector.unregister(connection.client)
        connection.delayed = refusal
        connection.deadline = time.monotonic() + GUESS_DELAY

    def _begin_answer(self, connection: Connection, response: Response) -> None:
        connection.delayed = None
        connection.answer([encode(response, body=False), response.body if connection.body else b""])
        connection.deadline = time.monotonic() + ANSWER_TIMEOUT
        self._watch(connection, selectors.EVENT_WRITE)
        self._go_on(connection)

    def _drain(self, connection: Connection) -> None:
        """Read what the client still sends: closing over unread bytes would reset the connection."""
        connection.drained += 1
        if not connection.drain(LARGEST_HEAD) or connection.drained >= _MOST_DRAINED:
            self._close(connection)

    def _drop(self, connection: Connection, reason: Dropped) -> None:
        if connection.unsent is None or connection.unsent:  # else it has its answer
            self._dropped(reason)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._open.pop(connection.client.fileno(), None)
        if connection.deadline is None:
            self._answers.forget(connection)
        if connection.client in self._selector.get_map():
            self._selector.unregister(connection.client)
        connection.client.close()


def _has_callers(listening: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


def _too_large() -> NoReturn:
    raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def _bound(address: tuple[str, int]) -> socket.socket:
    host, port = address
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        hint = "something else is listening there; " if error.errno == errno.EADDRINUSE else ""
        why = f"{error.strerror}; {hint}choose another address, or null"
        raise ConfigError([f"status.address: cannot listen on {host} port {port}: {why}"]) from error
    listening.setblocking(False)  # noqa: FBT003 (likewise)
    return listening

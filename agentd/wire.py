"""A connection (TCP, TLS, unix socket) that is opened, written and read within one deadline.

It owns looking up names, connecting, the TLS handshake, the time limit of each step, and the errors that say
what broke. It must not know what the bytes mean (`http.py`), and never names the server in an error: the
caller does. It imports only a few small modules of the standard library; not `ssl`: callers that use TLS have
imported it for their `SSLContext`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from agentd.errors import AgentdError

if TYPE_CHECKING:
    from ssl import SSLContext

_CHUNK: Final = 65536
_STOP_POLL: Final = 0.25  # seconds between two looks at `Timeouts.stop`
_BUSY_POLL: Final = 0.01  # seconds between two attempts at a unix socket whose queue is full
_WORDS: Final = (
    (ConnectionRefusedError, "nothing is listening there"),
    (FileNotFoundError, "there is no such socket"),
    (PermissionError, "permission to connect is denied"),
    (socket.gaierror, "the host name cannot be resolved"),
    ((ConnectionResetError, BrokenPipeError), "the connection was reset"),
)

_Result = TypeVar("_Result")


class ExchangeError(AgentdError):
    """There is no complete answer. The text says why; it names neither the server nor the request."""


class ConnectError(ExchangeError):
    """There is no connection, so nothing was sent: nothing listens, no route, no such name or socket."""


class CertificateError(ConnectError):
    """The server's certificate is not trusted."""


class ExchangeTimeoutError(ExchangeError):
    """The time is up. The request may have been carried out nevertheless."""


class StoppedError(ExchangeError):
    """`Timeouts.stop` was set, or the connection was aborted."""


class IncompleteError(ExchangeError):
    """The connection broke, or ended before the answer was complete."""


class TooLargeError(ExchangeError):
    """The head or the body is larger than allowed."""


class TCPAddress(NamedTuple):
    """A server on TCP.

    Attributes:
        host: a name, an IPv4 address, or an IPv6 address without brackets.
        tls: use TLS with these settings, and check the certificate against `host`. A body without a length
            can be cut off unnoticed unless `ssl.OP_IGNORE_UNEXPECTED_EOF` is cleared in them.
        server_name: check the certificate against this name instead.
    """

    host: str
    port: int
    tls: SSLContext | None = None
    server_name: str = ""


class UnixAddress(NamedTuple):
    """A server on a unix socket."""

    path: str


Address = TCPAddress | UnixAddress


class Timeouts(NamedTuple):
    """How long an exchange may take, in seconds.

    Attributes:
        total: from the first step to the last byte.
        connect: for looking up the name, connecting, and the TLS handshake.
        idle: the longest silence of the other side.
        stop: once set, the exchange is abandoned.
    """

    total: float
    connect: float = float("inf")
    idle: float = float("inf")
    stop: threading.Event | None = None


class Clock:
    """The deadline of one exchange, and of its current step."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self._end = time.monotonic() + timeouts.total
        self._step_end, self._doing, self._limit = self._end, "", timeouts.total

    def begin(self, doing: str, limit: float) -> float:
        """Begin a step that may take up to `limit` seconds, if that is left; return when it must end."""
        self._doing = doing
        self._step_end = min(time.monotonic() + limit, self._end)
        self._limit = min(limit, self.timeouts.total)
        return self._step_end

    def left(self) -> float:
        """Seconds to wait before the next look at this clock.

        Raises:
            ExchangeTimeoutError: the time for the step, or for the whole exchange, is up.
            StoppedError: see `Timeouts.stop`.
        """
        stop = self.timeouts.stop
        if stop is not None and stop.is_set():
            raise StoppedError(f"gave up while {self._doing}: agentd is stopping")
        left = self._step_end - time.monotonic()
        if left <= 0:
            raise ExchangeTimeoutError(f"timed out after {self._limit:.3g} s while {self._doing}")
        return left if stop is None else min(left, _STOP_POLL)

    def wait(self, connection: socket.socket, operation: Callable[[], _Result]) -> _Result:
        """Do one operation on a socket, looking at this clock in between as often as necessary."""
        while True:
            connection.settimeout(self.left())
            try:
                return operation()
            except TimeoutError as error:
                if error.errno is not None:  # the kernel's, of the connection; not that of settimeout
                    raise


class Wire:
    """A connected socket, with what was received but not read yet.

    Attributes:
        clock: of the exchange in progress.
    """

    def __init__(self, connection: socket.socket, clock: Clock) -> None:
        self.clock = clock
        self._socket = connection
        self._received = bytearray()
        self._begun = False

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def shut_down(self) -> None:
        """Wake the thread that waits for this socket; the plain socket's method touches no TLS state."""
        with suppress(OSError):  # the other side was faster
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def quiet(self) -> bool:
        """Whether nothing has arrived since the last answer, not even the end of the connection."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return not self._received and not waiting.poll(0)

    def send(self, data: bytes) -> None:
        """Send everything, unless the server answers early and hangs up: then its answer says why."""
        self._begun = False
        unsent = memoryview(data)
        while unsent:
            self.clock.begin("sending the request", self.clock.timeouts.idle)
            try:
                unsent = unsent[self.clock.wait(self._socket, partial(self._socket.send, unsent)) :]
            except (BrokenPipeError, ConnectionResetError):
                return

    def line(self, longest: int) -> bytes:
        """The next line, without its end."""
        while (end := self._received.find(b"\n", 0, longest)) < 0:
            if len(self._received) >= longest:
                raise TooLargeError("the head of the answer is too large")
            if not self._receive():
                cut = (
                    "the answer was cut off" if self._begun else "the connection was closed without an answer"
                )
                raise IncompleteError(cut)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    def read(self, count: int) -> bytes:
        """At most `count` bytes; b"" at the end of the connection."""
        if not self._received and not self._receive():
            return b""
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _receive(self) -> bool:
        doing = "reading the answer" if self._begun else "waiting for the answer"
        self.clock.begin(doing, self.clock.timeouts.idle)
        data = self.clock.wait(self._socket, partial(self._socket.recv, _CHUNK))
        self._begun = self._begun or bool(data)
        self._received += data
        return bool(data)


# ---------------------------------------------------------------- connecting


def connect(address: Address, clock: Clock) -> Wire:
    """Connect, within the time that the clock allows.

    Raises:
        ConnectError: there is no connection.
        ExchangeTimeoutError, StoppedError: the clock says so.
    """
    try:
        if isinstance(address, UnixAddress):
            clock.begin("connecting", clock.timeouts.connect)
            return Wire(_connected(socket.AF_UNIX, address.path, clock), clock)
        return Wire(_connect_tcp(address, clock), clock)
    except OSError as error:
        kind = CertificateError if hasattr(error, "verify_code") else ConnectError
        raise kind(_reason(error)) from error


def _connect_tcp(address: TCPAddress, clock: Clock) -> socket.socket:
    end = clock.begin("looking up the host name", clock.timeouts.connect)
    connection = _connect_any(_resolve(address, clock), end, clock)
    if address.tls is None:
        return connection
    secure = address.tls.wrap_socket(
        connection,
        server_hostname=address.server_name or address.host,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=False,  # see `TCPAddress.tls`
    )
    try:
        clock.begin("doing the TLS handshake", end - time.monotonic())
        clock.wait(secure, secure.do_handshake)
    except BaseException:
        secure.close()
        raise
    return secure


def _connect_any(found: list[Any], end: float, clock: Clock) -> socket.socket:
    """Connect to the first address that accepts; a silent one leaves the others their share of the time."""
    *others, (family, *_, where) = found
    for number, (other_family, *_, other) in enumerate(others):
        clock.begin("connecting", (end - time.monotonic()) / (len(found) - number))
        with suppress(OSError, ExchangeTimeoutError):
            return _connected(other_family, other, clock)
    clock.begin("connecting", end - time.monotonic())
    return _connected(family, where, clock)


def _resolve(address: TCPAddress, clock: Clock) -> list[Any]:
    """Addresses as `getaddrinfo` returns them. The system's resolver has no deadline, so a thread waits."""
    host, port = address.host, address.port
    unknown = (OSError, UnicodeError)  # UnicodeError: a label of more than 63 characters
    with suppress(*unknown):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: list[Any] = []
    done = threading.Event()

    def look_up() -> None:
        with suppress(*unknown):
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        done.set()

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    while not done.wait(clock.left()):
        pass
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return found


def _connected(family: int, where: Any, clock: Clock) -> socket.socket:  # noqa: ANN401 (as the family has it)
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(0)
        _finish_connecting(made, where, clock)
    except BaseException:
        made.close()
        raise
    return made


def _finish_connecting(made: socket.socket, where: Any, clock: Clock) -> None:  # noqa: ANN401 (as above)
    while (code := made.connect_ex(where)) == errno.EAGAIN:  # the queue of a unix socket is full
        time.sleep(min(_BUSY_POLL, clock.left()))
    if code == errno.EINPROGRESS:
        ready = select.poll()
        ready.register(made, select.POLLOUT)
        while not ready.poll(clock.left() * 1000):
            pass
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


# ---------------------------------------------------------------- what broke


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the system raises in the middle of an exchange into an `ExchangeError`."""
    try:
        yield
    except OSError as error:
        raise IncompleteError(_reason(error)) from error


def _reason(error: OSError) -> str:
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    # By attributes: `ssl` is imported only by those who use it.
    if hasattr(error, "verify_message"):
        return f"its certificate is not trusted ({error.verify_message})"
    if hasattr(error, "library"):
        return f"TLS failed ({getattr(error, 'reason', None) or type(error).__name__})"
    return f"the connection broke ({error.strerror or error})"

"""One HTTP/1.1 exchange that is bounded in time and size, whatever the other side does.

It owns what is sent, when an answer is complete, and the size limits; connecting and the deadline are up to
`wire.py`. A timeout per read, as HTTP libraries have it, does not limit an answer that arrives byte by byte;
and the standard library takes the end of the connection for the end of the head, so an answer that is cut off
there looks complete. It must not follow a redirect, use a proxy, decode a body, repeat a request, or quote a
path, a header or a body in an error: they may contain secrets.

Everything raised is an `ExchangeError`, whose text follows the caller's name for the server:
`raise TemporaryError(f"{url}: {error}") from error`.

    from agentd import http

    answer = http.exchange(http.TCPAddress("127.0.0.1", 9522), "/upstreams?upstream=api", timeout=2.0)
    if answer.status == 200:
        print(answer.body, answer.headers.get("content-type"))

    with http.Connection(http.UnixAddress("/run/lists.sock")) as connection:
        for chunk in connection.send("/drop.txt", timeout=60.0):
            ...

Only a few small modules of the standard library are imported (`http.client` brings `ssl` and `email`):
commands that must start quickly use it too. RFC 9110 and RFC 9112 are the source of the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Self

from agentd.wire import (
    Address,
    CertificateError,
    Clock,
    ConnectError,
    ExchangeError,
    ExchangeTimeoutError,
    IncompleteError,
    StoppedError,
    TCPAddress,
    Timeouts,
    TooLargeError,
    UnixAddress,
    Wire,
    connect,
    translated,
)

__all__ = [
    "LARGEST_BODY",
    "LARGEST_HEAD",
    "Address",
    "Body",
    "CertificateError",
    "ConnectError",
    "Connection",
    "ExchangeError",
    "ExchangeTimeoutError",
    "Headers",
    "IncompleteError",
    "NotHTTPError",
    "Response",
    "StoppedError",
    "TCPAddress",
    "Timeouts",
    "TooLargeError",
    "UnixAddress",
    "exchange",
]

LARGEST_HEAD: Final = 65536
"""Size limit of an answer's head, including any 1xx answers before it, in bytes."""
LARGEST_BODY: Final = 1_048_576
"""Size limit of a body, in bytes, unless the caller gives another."""

_CHUNK: Final = 65536
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_PATH: Final = re.compile(r"[!-~]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_INTERIM: Final = range(100, 200)
_SWITCHING_PROTOCOLS: Final = 101
_NO_BODY: Final = (204, 304)
_WITH_BODY: Final = ("POST", "PUT", "PATCH")
_LONGEST_CHUNK_LINE: Final = 1024
_MOST_FRAMING: Final = 1_048_576
"""Bytes by which the lines around chunks may exceed what is in the chunks."""


class NotHTTPError(ExchangeError):
    """What arrived is not a valid HTTP/1.x answer."""


class Headers(Mapping[str, str]):
    """The header fields of an answer; names are case-insensitive, repeated fields are joined with ", "."""

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        self._fields: dict[str, str] = {}
        for name, value in (fields or {}).items():
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a field."""
        name = name.lower()
        self._fields[name] = f"{self._fields[name]}, {value}" if name in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Response(NamedTuple):
    """A complete answer, whatever its status."""

    status: int
    headers: Headers
    body: bytes


def exchange(  # noqa: PLR0913 (a request has this many sides; all but two are named at the call)
    address: Address,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float | Timeouts,
    max_size: int = LARGEST_BODY,
) -> Response:
    """Make one request over a separate connection, and return the complete answer. Safe from any thread.

    Args:
        address: where the server listens.
        path: path and query, sent exactly as given.
        method: in capitals.
        headers: added to Host, User-Agent, Accept-Encoding and Connection, or instead of them.
        body: what to send.
        timeout: seconds for the whole exchange, or `Timeouts`.
        max_size: size limit of the answer's body, in bytes.

    Raises:
        ExchangeError: there is no complete answer; see its subclasses.
        ValueError: the method, the path or a header cannot be sent.
    """
    sent = {"Connection": "close", **(headers or {})}
    with Connection(address) as connection:
        return connection.exchange(
            path, method=method, headers=sent, body=body, timeout=timeout, max_size=max_size
        )


class Connection:
    """Several exchanges with one server, one after another, over one connection if the server allows that.

    It connects when it needs to, and again if the server has hung up. One thread at a time may use it; any
    thread may call `abort`.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._aborted = False
        self._wire: Wire | None = None
        self._body: Body | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        """A handler that is replaced at a reload of the configuration leaves its connections to this."""
        self.close()

    def close(self) -> None:
        """Hang up; the next exchange reconnects."""
        wire, self._wire, self._body = self._wire, None, None
        if wire is not None:
            wire.close()

    def abort(self) -> None:
        """Give up for good: an exchange in another thread fails at once, and none can begin."""
        self._aborted = True
        wire = self._wire
        if wire is not None:
            wire.shut_down()

    def exchange(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | Timeouts,
        max_size: int = LARGEST_BODY,
    ) -> Response:
        """See the function `exchange`."""
        answer = self.send(
            path, method=method, headers=headers, body=body, timeout=timeout, max_size=max_size
        )
        try:
            return Response(answer.status, answer.headers, b"".join(answer))
        except BaseException:
            self.close()
            raise

    def send(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | Timeouts,
        max_size: int | None = None,
    ) -> Body:
        """Send a request and return the answer with its body unread; see the function `exchange`."""
        request = _request(self._address, method, path, headers or {}, body)
        clock = Clock(timeout if isinstance(timeout, Timeouts) else Timeouts(timeout))
        if self._wire is not None and not (self._body and self._body.reusable and self._wire.quiet()):
            self.close()
        try:
            with translated():
                wire = self._connected(clock)
                wire.send(request)
                self._body = Body(_read_head(wire, method), wire, max_size)
        except BaseException:
            self.close()
            raise
        return self._body

    def _connected(self, clock: Clock) -> Wire:
        if self._wire is None:
            self._wire = connect(self._address, clock)
        if self._aborted:  # after connecting: from here on `abort` finds a socket to shut down
            raise StoppedError("the connection was given up")
        self._wire.clock = clock
        return self._wire


class Body:
    """An answer whose body is read piece by piece, within the deadline and limits of its exchange.

    Attributes:
        status: such as 200.
        headers: of the answer; not those that follow a chunked body.
        length: size of the body in bytes, if the head gives it.
        size: bytes read so far.
    """

    def __init__(self, head: _Head, wire: Wire, limit: int | None) -> None:
        self.status, self.headers, self.length, self.size = head.status, head.headers, head.length, 0
        self._wire, self._limit, self._chunked, self._keep = wire, limit, head.chunked, head.keep
        self._left = 0 if head.chunked else head.length  # of the chunk, or of the body; None: until the end
        self._done = head.length == 0
        self._framing = 0
        self._admit(head.length or 0)

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read():
            yield chunk

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another request: the body was read, and the server stays."""
        return self._done and self._keep and self._left is not None

    def read(self, count: int = _CHUNK) -> bytes:
        """At most `count` bytes, as soon as there are any; b"" at the end of the body.

        Raises:
            ExchangeError: the rest does not arrive in time, or is too large.
        """
        with translated():
            if self._chunked and self._left == 0 and not self._done:
                self._begin_chunk()
            if self._done:
                return b""
            data = self._wire.read(count if self._left is None else min(count, self._left))
            self._admit(len(data))
            self.size += len(data)
            self._account(data)
            return data

    def _account(self, data: bytes) -> None:
        if self._left is None:
            self._done = not data
            return
        if not data:
            raise IncompleteError(
                f"the answer was cut off after {self.size} of {self.length} bytes"
                if self.length
                else f"the answer was cut off after {self.size} bytes"
            )
        self._left -= len(data)
        if self._left == 0 and self._chunked:
            if self._chunk_line():
                raise NotHTTPError("the answer is not valid HTTP: a chunk is longer than it says")
        elif self._left == 0:
            self._done = True

    def _begin_chunk(self) -> None:
        found = _CHUNK_SIZE.fullmatch(self._chunk_line())
        if not found:
            raise NotHTTPError("the answer is not valid HTTP: a chunk has no usable size")
        self._left = int(found[1], 16)
        self._admit(self._left)
        if self._left == 0:
            room = LARGEST_HEAD
            while line := self._wire.line(room):  # trailers
                room -= len(line)
            self._done = True

    def _chunk_line(self) -> bytes:
        line = self._wire.line(_LONGEST_CHUNK_LINE)
        self._framing += len(line) + 2
        if self._framing > self.size + _MOST_FRAMING:
            raise TooLargeError("the answer consists of its chunks' headers rather than of content")
        return line

    def _admit(self, count: int) -> None:
        if self._limit is not None and self.size + count > self._limit:
            raise TooLargeError(f"the answer has more than {self._limit} bytes")


class _Head(NamedTuple):
    """The head of an answer; `length` is None for a body that is chunked or ends with the connection."""

    status: int
    headers: Headers
    length: int | None
    chunked: bool
    keep: bool


# ---------------------------------------------------------------- what is sent


def _request(
    address: Address, method: str, path: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    """The bytes of a request.

    Raises:
        ValueError: the server could take a part of it for something else.
    """
    if not _METHOD.fullmatch(method):
        raise ValueError("a method must consist of capital letters")
    if not _PATH.fullmatch(path):
        raise ValueError("a path must consist of printable ASCII characters, without spaces")
    fields = {"host": _host(address), "user-agent": "agentd", "accept-encoding": "identity"}
    if body is not None or method in _WITH_BODY:
        fields["content-length"] = str(len(body or b""))
    for name, value in headers.items():
        if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError("a header contains characters that are not allowed")
        fields[name.lower()] = value
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.title()}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def _host(address: Address) -> str:
    if isinstance(address, UnixAddress):
        return "localhost"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == (443 if address.tls else 80) else f"{host}:{address.port}"


# ---------------------------------------------------------------- what is received


def _read_head(wire: Wire, method: str) -> _Head:
    """The complete head of the answer; 1xx answers before it are skipped."""
    room = LARGEST_HEAD
    while True:
        lines = []
        while line := wire.line(room):
            room -= len(line)
            lines.append(line.decode("latin-1"))
        room -= 1
        found = _STATUS_LINE.fullmatch(lines[0]) if lines else None
        if not found:
            raise NotHTTPError("the answer is not HTTP")
        status = int(found[2])
        headers = _headers(lines[1:])
        if status == _SWITCHING_PROTOCOLS:
            raise NotHTTPError("the server switched to another protocol without being asked")
        if status not in _INTERIM:
            break
    closes = "close" in headers.get("connection", "").lower() or found[1] == "0"
    length, chunked = _framing(headers)
    if method == "HEAD" or status in _NO_BODY:
        length, chunked = 0, False
    return _Head(status, headers, length, chunked, keep=not closes)


def _headers(lines: list[str]) -> Headers:
    headers = Headers()
    for line in lines:
        name, colon, value = line.partition(":")
        if not (colon and _TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
            raise NotHTTPError("the answer is not valid HTTP: a line of its head is not a header")
        headers.add(name, value.strip(" \t"))
    return headers


def _framing(headers: Headers) -> tuple[int | None, bool]:
    """The length of the body, and whether it is chunked (RFC 9112, 6.3); an ambiguous length is refused."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise NotHTTPError("the answer is not valid HTTP: where its body ends is not clear")
        return None, True
    if length is None:
        return None, False
    same = set(map(str.strip, length.split(",")))  # a length that is repeated is valid (RFC 9110, 8.6)
    if len(same) != 1 or not _LENGTH.fullmatch(min(same)):
        raise NotHTTPError("the answer is not valid HTTP: its Content-Length is not one number")
    return int(min(same)), False

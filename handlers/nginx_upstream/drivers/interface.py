"""Speaks the HTTP interface of ngx_dynamic_upstream: the servers of one upstream, at run time.

Owns the wire: one short connection a call, bounded in time and size, and answers that are understood to the
last character or refused. `config/nginx/dynamic_upstream.lua` serves the same interface. It must not decide
which servers there should be.

The interface takes GET only, knows the upstream by its zone, and does not decode values, so that only what
needs no encoding may go into them. It lists no backup servers. A host name can block the worker for ever:
addresses and ports only.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from typing import Final

from agentd.handler import PermanentError, TemporaryError

MOST_BYTES: Final = 1_048_576
"""An answer longer than this is none; a thousand servers need about 80,000 bytes."""
_HTTP_PORT: Final = 80
_OK: Final = 200
_CLIENT_ERRORS: Final = range(400, 500)
_URL: Final = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[^/:\[\]\s]+)(?::([0-9]{1,5}))?(/[!-~]*)?")
_SOCKET: Final = re.compile(r"unix:(/[^\s:]+)(?::(/[!-~]*))?")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,18}) *\r", re.IGNORECASE)
_LINE: Final = re.compile(
    r"server ([0-9.]+:[0-9]{1,5}|\[[0-9a-f:.]+\]:[0-9]{1,5})((?: [a-z_]+=[0-9]+)*)( backup)?( down)?;"
)
_VALUE: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]+")


@dataclass(frozen=True, slots=True)
class Peer:
    """One server as the interface lists it; `fail_timeout` is seconds."""

    address: str
    weight: int = 1
    max_fails: int = 1
    fail_timeout: int = 10
    down: bool = False


class UpstreamInterface:
    """The interface of one nginx, for one upstream.

    Args:
        url: "http://127.0.0.1:9522/upstreams" or "unix:/run/upstreams.sock:/upstreams".
        upstream: the zone.
        timeout: seconds for a whole call.

    Raises:
        ValueError: the url or the upstream is not of this form.
        TemporaryError: from every method: no answer in time, a 5xx, or an answer that makes no sense.
        PermanentError: from every method: the interface refused it (404: there is no such upstream).
    """

    def __init__(self, url: str, upstream: str, *, timeout: float = 2.0) -> None:
        self.url = url
        self.upstream = _checked(upstream)
        self._timeout = timeout
        self._target, self._host, self._path = _parse(url)

    def list(self) -> dict[str, Peer]:
        """The servers, by address."""
        return _peers(self._get("&verbose="), self.url)

    def add(self, peer: Peer) -> dict[str, Peer]:
        """Add a server, down from the start if it is. Returns the servers, as each of these does."""
        down = "&down=" if peer.down else ""
        return self._change(f"&add=&server={_checked(peer.address)}{_numbers(peer)}{down}")

    def remove(self, address: str) -> dict[str, Peer]:
        """Remove a server; the last one cannot be removed."""
        return self._change(f"&remove=&server={_checked(address)}")

    def set(self, peer: Peer) -> dict[str, Peer]:
        """Set weight, max_fails and fail_timeout of a server; not whether it is down."""
        return self._change(f"&server={_checked(peer.address)}{_numbers(peer)}")

    def set_weight(self, address: str, weight: int) -> dict[str, Peer]:
        """Set the weight of a server alone."""
        return self._change(f"&server={_checked(address)}&weight={weight:d}")

    def down(self, address: str) -> dict[str, Peer]:
        """Take a server out: no new request goes to it."""
        return self._change(f"&server={_checked(address)}&down=")

    def up(self, address: str) -> dict[str, Peer]:
        """Put a server back."""
        return self._change(f"&server={_checked(address)}&up=")

    def _change(self, query: str) -> dict[str, Peer]:
        return _peers(self._get(f"{query}&verbose="), self.url)

    # ------------------------------------------------------------------ the wire

    def _get(self, query: str) -> str:
        deadline = time.monotonic() + self._timeout
        try:
            answer = self._exchange(f"{self._path}?upstream={self.upstream}{query}", deadline)
        except OSError as error:
            reason = f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else error
            raise TemporaryError(f"{self.url}: {reason}") from error
        return self._body(answer)

    def _exchange(self, target: str, deadline: float) -> bytes:
        family = socket.AF_UNIX if isinstance(self._target, str) else _family(self._target[0])
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout)
            connection.connect(self._target)
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: {self._host}\r\n\r\n".encode("ascii"))
            return read_all(connection, deadline)

    def _body(self, answer: bytes) -> str:
        head, separator, body = answer.partition(b"\r\n\r\n")
        status = _STATUS.match(head)
        if len(answer) > MOST_BYTES:
            raise TemporaryError(f"{self.url}: the answer is longer than {MOST_BYTES} bytes")
        if not (separator and status):
            raise TemporaryError(f"{self.url}: this is no HTTP answer ({len(answer)} bytes)")
        code = int(status[1])
        if code in _CLIENT_ERRORS:
            raise PermanentError(f"{self.url}: refused with status {code} for upstream {self.upstream}")
        if code != _OK:
            raise TemporaryError(f"{self.url}: answered with status {code}")
        length = _LENGTH.search(head + b"\r\n")
        if length and int(length[1]) != len(body):
            raise TemporaryError(f"{self.url}: the answer is cut off: {len(body)} of {int(length[1])} bytes")
        return body.decode("ascii", "replace")


def read_all(connection: socket.socket, deadline: float) -> bytes:
    """What comes until the other side closes, `MOST_BYTES` and a little at most, before the deadline.

    Raises:
        TimeoutError: the time is over.
        OSError: the connection broke.
    """
    answer = bytearray()
    while len(answer) <= MOST_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        if not (more := connection.recv(65536)):
            break
        answer += more
    return bytes(answer)


def _parse(url: str) -> tuple[str | tuple[str, int], str, str]:
    """What to connect to, the Host, and the path."""
    if found := _SOCKET.fullmatch(url):
        return found[1], "localhost", found[2] or "/"
    if found := _URL.fullmatch(url):
        return (found[1].strip("[]"), int(found[2] or _HTTP_PORT)), found[1], found[3] or "/"
    raise ValueError(f"http://HOST:PORT/PATH or unix:/SOCKET:/PATH is needed, not {url!r}")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _checked(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the interface cannot be told {value[:80]!r}: it decodes nothing")
    return value


def _numbers(peer: Peer) -> str:
    return f"&weight={peer.weight:d}&max_fails={peer.max_fails:d}&fail_timeout={peer.fail_timeout:d}"


def _peers(text: str, url: str) -> dict[str, Peer]:
    """Understand a verbose list to the last character."""
    if text and not text.endswith("\n"):
        raise TemporaryError(f"{url}: the answer ends in the middle of a line ({len(text)} bytes)")
    peers = [_peer(line, url) for line in text.splitlines()]
    return {peer.address: peer for peer in peers}


def _peer(line: str, url: str) -> Peer:
    found = _LINE.fullmatch(line)
    if found is None:
        raise TemporaryError(f"{url}: this is no list of servers: {line[:80]!r}")
    words = dict(word.split("=") for word in found[2].split())
    numbers = {name: int(words[name]) for name in ("weight", "max_fails", "fail_timeout") if name in words}
    return Peer(found[1], **numbers, down=bool(found[4]))

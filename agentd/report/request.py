"""The few rules of HTTP that the listener needs (RFC 9110, 9112): bytes to a request, a response to bytes.

Does no I/O, and no response contains a byte of the request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
# A page may use what comes from here, and nothing else; nobody may frame it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_ALWAYS: Final = (
    "Cache-Control: no-store",
    f"Content-Security-Policy: {_POLICY}",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    "Referrer-Policy: no-referrer",
    "X-Content-Type-Options: nosniff",
    "Connection: close",
)
_NAME_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back: the whole body at once, and headers, as lines, beside those that each answer has."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: tuple[str, ...] = ()


class BadRequest(Exception):  # noqa: N818 (HTTP's own term; never leaves this module)
    """Carries the status with which the request is refused."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class Request(NamedTuple):
    """What is asked.

    Attributes:
        method: GET or HEAD.
        path: without its query string.
        host: as the client calls us: a name or address, perhaps with a port.
        authorization: the header of that name; "" without it.
    """

    method: str
    path: str
    host: str
    authorization: str = ""


def parse(head: bytes) -> Request:
    """The request; whether it is for us, and whether who asks may know, `access` decides.

    Args:
        head: request line and headers, without the empty line that ends them.

    Raises:
        BadRequest: it is malformed, or neither GET nor HEAD.
    """
    first, *lines = head.split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    hosts, authorizations = _values(lines, b"host"), _values(lines, b"authorization")
    if len(hosts) != 1 or len(authorizations) > 1:
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    if request[1] not in (b"GET", b"HEAD"):
        raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED)
    path = request[2].decode("ascii").partition("?")[0]
    return Request(request[1].decode("ascii"), path, hosts[0], *authorizations)


def _values(lines: Iterable[bytes], wanted: bytes) -> list[str]:
    """The values of all headers of that name."""
    headers = (line.partition(b":") for line in lines)
    return [value.strip().decode("latin-1") for name, _, value in headers if name.lower() == wanted]


def host_of(header: str) -> str:
    """The name or address in a Host header, in lower case, without port and brackets; "" if there is none."""
    parts = _NAME_AND_PORT.fullmatch(header)
    return parts[1].strip("[]").lower() if parts else ""


def is_address(name: str) -> bool:
    """Whether it is an IP address: no page elsewhere can have that for its own name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback_name(host: str) -> bool:
    """Whether a Host header, such as "localhost:9521" or "[::1]", names this node's loopback."""
    name = host_of(host)
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def encode(answer: Response, *, body: bool) -> bytes:
    """The bytes of a response, with or without its body."""
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *_ALWAYS,
        *answer.headers,
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (answer.body if body else b"")

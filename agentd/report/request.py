"""The few rules of HTTP that the listener needs (RFC 9110, 9112): bytes to a request, a response to bytes.

Does no I/O, and no response contains a byte of the request.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

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
    """What is sent back: the whole body at once."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


class BadRequest(Exception):  # noqa: N818 (HTTP's own term; never leaves this module)
    """Carries the status with which the request is refused."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def parse(head: bytes) -> tuple[bytes, str]:
    """The method and the path, without its query string, of a request for us.

    Args:
        head: request line and headers, without the empty line that ends them.

    Raises:
        BadRequest: it is malformed, not for loopback, or neither GET nor HEAD.
    """
    first, *lines = head.split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    hosts = [value for name, _, value in (line.partition(b":") for line in lines) if name.lower() == b"host"]
    if len(hosts) != 1:
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    if not is_loopback_name(hosts[0].strip().decode("latin-1")):
        # A page whose name was made to resolve to this address must not read what only this node may.
        raise BadRequest(HTTPStatus.MISDIRECTED_REQUEST)
    if request[1] not in (b"GET", b"HEAD"):
        raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED)
    return request[1], request[2].decode("ascii").partition("?")[0]


def is_loopback_name(host: str) -> bool:
    """Whether a Host header, such as "localhost:9521" or "[::1]", names this node's loopback."""
    parts = _NAME_AND_PORT.fullmatch(host)
    if parts is None:
        return False
    name = parts[1].strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def encode(answer: Response, *, body: bool) -> bytes:
    """The bytes of a response, with or without its body."""
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *_ALWAYS,
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (answer.body if body else b"")

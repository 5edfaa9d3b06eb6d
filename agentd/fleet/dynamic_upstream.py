"""The dynamic-upstream interface of one load balancer: what is asked, and what its answers mean.

One request a method; nothing here repeats, compares or undoes. A server is named by IP address and port
only: a host name would deadlock the worker of nginx that looks it up.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from agentd.errors import BalancerError
from agentd.fleet.exchange import get

_LARGEST: Final = 1 << 20  # bytes of an answer; a thousand servers take less than a tenth
_QUOTED: Final = 80
_LAST_PORT: Final = 65535
_LINE: Final = re.compile(r"server (?P<server>[^\s;]+)(?P<rest>(?: [^\s;]+)*) ?;")
# Values are sent undecoded and unquoted, so these must be harmless as they stand.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_PATH: Final = re.compile(r"/[A-Za-z0-9_./~-]{0,200}")


def check_server(text: str) -> str:
    """The server as nginx spells it, such as 10.0.0.1:80 or [2001:db8::1]:80.

    Raises:
        ValueError: not an IP address and a port.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
        good = (bare != host) == (address.version == 6) and "%" not in bare  # noqa: PLR2004 (IPv6)
        # int() would take other digits, signs and underscores as well.
        good = good and port.isascii() and port.isdigit() and 0 < int(port[:6]) <= _LAST_PORT
    except ValueError:
        good = False
    if not good:
        raise ValueError("an IP address and a port are needed, such as 10.0.0.1:80 or [2001:db8::1]:80")
    return spelled(bare, int(port))


def spelled(address: str, port: int) -> str:
    """An IP address and a port as nginx writes them.

    Raises:
        ValueError: not an IP address.
    """
    known = ipaddress.ip_address(address)
    return f"[{known}]:{port}" if known.version == 6 else f"{known}:{port}"  # noqa: PLR2004 (IPv6)


def check_upstream(text: str) -> str:
    """The name of an upstream's zone. Raises ValueError if it could mean more than a name."""
    if not _NAME.fullmatch(text):
        raise ValueError("the name of an upstream has letters, digits and . _ - only")
    return text


def check_path(text: str) -> str:
    """The path of the interface. Raises ValueError if it could mean more than a path."""
    if not _PATH.fullmatch(text):
        raise ValueError("a path such as /dynamic is needed")
    return text


@dataclass(frozen=True, slots=True)
class Peer:
    """A server of an upstream, as a balancer lists it; None is what it does not say.

    Attributes:
        fail_timeout: seconds.
    """

    server: str
    down: bool = False
    weight: int = 1
    max_fails: int | None = None
    fail_timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """How a server is to be: down or up, or of a weight; None leaves that as it is."""

    down: bool | None = None
    weight: int | None = None

    def met(self, peer: Peer) -> bool:
        """Whether it is so."""
        return self.down in (None, peer.down) and self.weight in (None, peer.weight)

    def as_found(self, before: Peer) -> Wish:
        """The wish that undoes this one on a server that was found like `before`."""
        return Wish(
            down=None if self.down is None else before.down,
            weight=None if self.weight is None else before.weight,
        )

    @property
    def query(self) -> str:
        """As the interface takes it."""
        weight = [] if self.weight is None else [f"weight={self.weight}"]
        state = [] if self.down is None else ["down=" if self.down else "up="]
        return "&".join([*weight, *state])


@dataclass(frozen=True, slots=True)
class Balancer:
    """A load balancer: its node's name, and where its interface listens."""

    node: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.node} ({host}:{self.port})"


@dataclass(frozen=True, slots=True)
class DynamicUpstream:
    """One upstream on one balancer, from any thread.

    Attributes:
        timeout: seconds that each request takes at most.
    """

    balancer: Balancer
    upstream: str
    path: str = field(default="/dynamic", kw_only=True)
    timeout: float = field(default=3.0, kw_only=True)

    def peers(self) -> tuple[Peer, ...]:
        """List the servers. Raises BalancerError."""
        return _peers(self._ask("verbose="))

    def change(self, server: str, wish: Wish) -> None:
        """Ask for it; whether it came true is for `peers` to say. Raises BalancerError."""
        self._ask(f"server={server}&{wish.query}")

    def _ask(self, query: str) -> bytes:
        target = f"{self.path}?upstream={self.upstream}&{query}"
        where = self.balancer
        reply = get(where.host, where.port, target, seconds=self.timeout, most=_LARGEST)
        if reply.status == HTTPStatus.NOT_FOUND:
            raise BalancerError(
                f"404: it knows no upstream {self.upstream!r}, or no interface at {self.path}"
            )
        if reply.status != HTTPStatus.OK:
            raise BalancerError(f"it answered {reply.status}{_quote(reply.body)}")
        return reply.body


def _peers(body: bytes) -> tuple[Peer, ...]:
    """Read a list. One line that is not understood makes all of it doubtful: it may be cut short."""
    lines = [line.strip() for line in body.decode(errors="replace").splitlines() if line.strip()]
    found = tuple(map(_peer, lines))
    if not found:
        raise BalancerError("the list of servers is empty, or was cut short")
    return found


def _peer(line: str) -> Peer:
    match = _LINE.fullmatch(line)
    if match is None:
        raise BalancerError(f"the answer is no list of servers, or was cut short{_quote(line.encode())}")
    words = match["rest"].split()
    values = dict(word.split("=", 1) for word in words if "=" in word)
    return Peer(
        match["server"],
        down="down" in words,
        weight=_number(values, "weight") or 1,
        max_fails=_number(values, "max_fails"),
        fail_timeout=_number(values, "fail_timeout"),
    )


def _number(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    digits = text.removesuffix("s")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):  # noqa: PLR2004 (nginx's are of 32 bits)
        raise BalancerError(f"{name} in the list of servers is no number")
    return int(digits)


def _quote(body: bytes) -> str:
    text = " ".join(body[:_QUOTED].decode("ascii", errors="replace").split())
    return f": {text}" if text else ""

"""A server of an upstream, and its address, as nginx writes them. Pure, and light to import."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from handlers.nginx_upstream.hosts import parse_host

LAST_PORT: Final = 65535
_NEEDED: Final = "an IP address and a port are needed, such as 192.0.2.1:80 or [2001:db8::1]:80"


@dataclass(frozen=True, slots=True)
class Server:
    """One server, with the parameters of nginx's `server` directive.

    Attributes:
        address: "192.0.2.1:80" or "[2001:db8::1]:80".
        fail_timeout: whole seconds.
        max_conns: 0 for no limit.
        down: an operator took it out of use.

    Source: https://nginx.org/en/docs/http/ngx_http_upstream_module.html#server
    """

    address: str
    weight: int = 1
    max_fails: int = 1
    fail_timeout: int = 10
    max_conns: int = 0
    backup: bool = False
    down: bool = False

    def text(self) -> str:
        """The address, and the parameters that differ from nginx's defaults."""
        numbers = (("weight", 1, ""), ("max_fails", 1, ""), ("fail_timeout", 10, "s"), ("max_conns", 0, ""))
        given = [
            f" {name}={getattr(self, name)}{unit}"
            for name, default, unit in numbers
            if getattr(self, name) != default
        ]
        return "".join((self.address, *given, " backup" * self.backup, " down" * self.down))

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read back what `text` wrote.

        Raises:
            ValueError: `text` did not write this.
        """
        address, *words = text.split(" ")
        values: dict[str, Any] = {}
        for word in words:
            name, equals, value = word.partition("=")
            values[name] = int(value.removesuffix("s")) if equals else True
        try:
            return cls(address, **values)
        except TypeError as error:
            raise ValueError(f"not a server: {text[:80]!r}") from error


@lru_cache(maxsize=8192)  # a thousand servers are sorted several times for every change
def order(address: str) -> tuple[int, int, int]:
    """Sort key: by number, IPv4 first, so that an unchanged set stays unchanged."""
    host, _, port = address.rpartition(":")
    parsed = ipaddress.ip_address(host.strip("[]"))
    return parsed.version, int(parsed), int(port)


def in_order(servers: Iterable[Server]) -> list[Server]:
    """Sorted by address."""
    return sorted(servers, key=lambda server: order(server.address))


def parse_address(text: str) -> str:
    """Check "192.0.2.1:80" or "[2001:db8::1]:80", and return it as nginx writes it.

    Raises:
        ValueError: something else, such as a host name.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = port.isascii() and port.isdigit() and len(port) <= len(str(LAST_PORT))
    if not number or bracketed != (":" in host):
        raise ValueError(_NEEDED)
    try:
        return join_address(host[1:-1] if bracketed else host, int(port))
    except ValueError as error:
        raise ValueError(f"{error}: {_NEEDED}") from None


def join_address(host: str, port: int) -> str:
    """Put an IP address and a port together as nginx writes them.

    Raises:
        ValueError: a host name, an address with a zone (nginx cannot be given one), or not a port.
    """
    parsed = parse_host(host)
    if type(port) is not int or not 0 < port <= LAST_PORT:  # JSON's `true` is an int as well
        raise ValueError(f"{str(port)[:64]!r} is not a port")
    return f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}"  # noqa: PLR2004 (IP's own number)


def host_of(address: str) -> str:
    """The host of "192.0.2.1:80" or "[2001:db8::1]:80"."""
    return address.rpartition(":")[0].strip("[]")

"""Servers of an upstream, and how instances of a service become servers.

Whoever can register a service writes its address, tags and meta, and may be an attacker: only IP addresses,
ports and known parameters with checked values come out of here, never text that came in. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

from agentd.handler import Instance

Parameter = Literal["backup", "max_fails", "fail_timeout", "max_conns"]
"""What tags and meta may set: a tag `max_fails=3` or `backup`, or meta of these names."""

LAST_PORT: Final = 65535
_FIT: Final = ("passing", "warning")
_LONGEST: Final = 8  # digits of a number that is worth reading


@dataclass(frozen=True, slots=True)
class Server:
    """One server, as the `server` directive has it.

    Attributes:
        address: "192.0.2.1:80" or "[2001:db8::1]:80".
        fail_timeout: whole seconds.
        max_conns: 0 for no limit.
        down: an operator took it out.

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
        """The parameters that differ from nginx's defaults, behind the address."""
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
            ValueError: it did not write this.
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


@lru_cache(maxsize=8192)  # a thousand servers are sorted several times in every change
def order(address: str) -> tuple[int, int, int]:
    """Sorts addresses by number, IPv4 first, so that an unchanged set stays unchanged."""
    host, _, port = address.rpartition(":")
    parsed = ipaddress.ip_address(host.strip("[]"))
    return parsed.version, int(parsed), int(port)


def in_order(servers: Iterable[Server]) -> list[Server]:
    """Sorted by address."""
    return sorted(servers, key=lambda server: order(server.address))


def parse_address(text: str) -> str:
    """Check "192.0.2.1:80" or "[2001:db8::1]:80" and return it in its one form.

    Raises:
        ValueError: something else, or an address that no server can have.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = port.isascii() and port.isdigit() and len(port) <= len(str(LAST_PORT))
    if not number or bracketed != (":" in host):
        raise ValueError("an IP address and a port are needed, such as 192.0.2.1:80 or [2001:db8::1]:80")
    return join_address(host[1:-1] if bracketed else host, int(port))


def join_address(host: str, port: int) -> str:
    """Put IP address and port together.

    Raises:
        ValueError: a host name, an address of a kind that no server has, or no port.
    """
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host[:64]!r} is not an IP address") from None
    if _odd(parsed):
        raise ValueError(f"{host[:64]!r} is no address that a server can have")
    if not 0 < port <= LAST_PORT:
        raise ValueError(f"{port} is not a port")
    return f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}"  # noqa: PLR2004 (IP's own number)


def _odd(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether nobody can be reached there, or only through an interface that nginx is not told."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.ipv4_mapped is not None:
            return True
    elif address.is_reserved:
        return True
    return address.is_unspecified or address.is_multicast or address.is_link_local


@dataclass(frozen=True, slots=True)
class Rules:
    """What an instance may ask for.

    Attributes:
        base: the parameters of a server that asks for nothing; its address means nothing.
        parameters: those that tags and meta may set.
        most_weight: a greater weight counts as this one.
        networks: where servers may be; empty for anywhere.
    """

    base: Server = Server("")
    parameters: Collection[Parameter] = ("backup", "max_fails", "fail_timeout", "max_conns")
    most_weight: int = 256
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


def servers_of(
    instances: Iterable[Instance], rules: Rules, refuse: Callable[[Instance, str], None]
) -> list[Server]:
    """The servers that the fit instances stand for, in order, each address once.

    Args:
        instances: passing, warning or not; those in neither state are left out.
        rules: what they may ask for.
        refuse: told of each instance, or each parameter of one, that is left out, and why.
    """
    found: dict[str, Server] = {}
    for instance in instances:
        if instance.status not in _FIT:
            continue
        try:
            server = _server(instance, rules, refuse)
        except ValueError as error:
            refuse(instance, str(error))
        else:
            found.setdefault(server.address, server)
    return in_order(found.values())


def _server(instance: Instance, rules: Rules, refuse: Callable[[Instance, str], None]) -> Server:
    address = join_address(instance.address, instance.port)
    if rules.networks and not _within(instance.address, rules):
        raise ValueError(f"{instance.address} lies outside the option `networks`")
    asked: dict[str, Any] = {}
    for name, value in _asked(instance).items():
        try:
            if name in rules.parameters:
                asked[name] = _READ[name](value)
        except ValueError as error:
            refuse(instance, f"{name}: {error}")
    weight = min(max(instance.weight, 1), rules.most_weight)
    return replace(rules.base, address=address, weight=weight, **asked)


def _within(address: str, rules: Rules) -> bool:
    host = ipaddress.ip_address(address)
    return any(host in network for network in rules.networks)


def _asked(instance: Instance) -> dict[str, str]:
    """The known parameters in tags and meta; meta wins."""
    tags = dict(_pair(tag) for tag in sorted(instance.tags))
    return {name: value for name, value in (tags | dict(instance.meta)).items() if name in _READ}


def _pair(tag: str) -> tuple[str, str]:
    name, equals, value = tag.partition("=")
    return name, value if equals else "true"


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text == "true"


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= _LONGEST and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"a whole number from {least} to {most} is needed")

    return read


_FAIL_TIMEOUT: Final = _number(1, 3600)
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "backup": _truth,
    "max_fails": _number(0, 1000),
    "fail_timeout": lambda text: _FAIL_TIMEOUT(text.removesuffix("s")),
    "max_conns": _number(0, 1_000_000),
}

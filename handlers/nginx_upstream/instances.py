"""How instances of a service become servers.

Anyone who can register a service chooses its address, tags and meta, and may be an attacker: only IP
addresses, ports and known parameters with checked values leave this module, never text that came in. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agentd.handler import Instance
from handlers.nginx_upstream.hosts import Network, check_host
from handlers.nginx_upstream.server import Server, in_order, join_address

Parameter = Literal["backup", "max_fails", "fail_timeout", "max_conns"]
"""What tags and meta may set: a tag `max_fails=3` or `backup`, or meta of these names."""

_FIT: Final = ("passing", "warning")
_MOST_DIGITS: Final = 8
_PLAIN: Final = Server("")


@dataclass(frozen=True, slots=True)
class Rules:
    """What an instance may ask for.

    Attributes:
        base: the parameters of a server that asks for nothing; its address is not used.
        parameters: those that tags and meta may set.
        max_weight: a greater weight counts as this one.
        networks: where servers may be; empty for anywhere but special addresses, such as loopback.
        port: name of the port, of instances that have several; "" for the default one.
    """

    base: Server = _PLAIN
    parameters: Collection[Parameter] = ("backup", "max_fails", "fail_timeout", "max_conns")
    max_weight: int = 256
    networks: tuple[Network, ...] = ()
    port: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was left out, and why; `parameter` is "" for the whole instance."""

    instance: Instance
    reason: str
    parameter: str = ""


def servers_of(instances: Iterable[Instance], rules: Rules) -> tuple[list[Server], list[Refusal]]:
    """The servers for the instances that are fit, in order, each address once; and what was left out.

    Args:
        instances: in any status; those neither passing nor warning are left out without a word.
        rules: what they may ask for.
    """
    found: dict[str, Server] = {}
    refused: list[Refusal] = []
    for instance in instances:
        if instance.status not in _FIT:
            continue
        try:
            server, parameters = _server(instance, rules)
        except ValueError as error:
            refused.append(Refusal(instance, str(error)))
        else:
            found.setdefault(server.address, server)
            refused += parameters
    return in_order(found.values()), refused


def _server(instance: Instance, rules: Rules) -> tuple[Server, list[Refusal]]:
    """The server, without the parameters that cannot be read."""
    host = check_host(instance.address, rules.networks)
    address = join_address(str(host), instance.port_named(rules.port))
    asked: dict[str, Any] = {}
    refused = []
    for name, value in _asked(instance).items():
        try:
            if name in rules.parameters:
                asked[name] = _READ[name](value)
        except ValueError as error:
            refused.append(Refusal(instance, str(error), name))
    weight = min(max(instance.weight, 1), rules.max_weight)
    return replace(rules.base, address=address, weight=weight, **asked), refused


def _asked(instance: Instance) -> dict[str, str]:
    """The known parameters in tags and meta; meta wins."""
    tags = dict(map(_pair, instance.tags))
    return {name: value for name, value in (tags | dict(instance.meta)).items() if name in _READ}


def _pair(tag: str) -> tuple[str, str]:
    name, equals, value = tag.partition("=")
    return name, value if equals else "true"


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("it must be true or false")
    return text == "true"


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"it must be a whole number from {least} to {most}")

    return read


_FAIL_TIMEOUT: Final = _number(1, 3600)
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "backup": _truth,
    "max_fails": _number(0, 1000),
    "fail_timeout": lambda text: _FAIL_TIMEOUT(text.removesuffix("s")),
    "max_conns": _number(0, 1_000_000),
}

"""Whom a message is for, in the words of `consul event`: a node, a service on it, a tag of that.

Owns the three options, and finding out whether anybody matches: a message for nobody is most often a mistake.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from agentd.commands.parser import Parser
from agentd.errors import ConfigError, ConsulRefused, ConsulUnavailable
from agentd.fleet.keys import Keys

if TYPE_CHECKING:
    from agentd.watch.client import ConsulClient


class Target(Protocol):
    """Patterns, "" for any; a draft has them, and a message."""

    @property
    def node(self) -> str:
        """For nodes of such a name."""

    @property
    def service(self) -> str:
        """For nodes with such a service."""

    @property
    def tag(self) -> str:
        """For nodes where such a service has such a tag."""


_LONGEST: Final = 512  # characters of a pattern
_MOST_SERVICES: Final = 50  # that are asked for their nodes
_ADD: Final = "; add to its policy:"
_READ: Final = ' "" { policy = "read" }'


def add_target_arguments(parser: Parser) -> None:
    """Add the options, which `consul event` has as well."""
    for flag, metavar, what in (
        ("--node", "RE", "only for nodes whose name matches this regular expression"),
        ("--service", "RE", "only for nodes with a service whose name matches"),
        ("--tag", "RE", "only for nodes where that service has a tag that matches; needs --service"),
    ):
        parser.add_argument(flag, type=_pattern, metavar=metavar, help=what)


def check_target(arguments: Namespace) -> None:
    """Refuse what names nobody. Raises ConfigError."""
    if arguments.tag and not arguments.service:
        raise ConfigError(["--tag is that of a service: give --service as well"])


def described(target: Target) -> str:
    """Whom a message is for, in the words that were typed; "" for all nodes."""
    given = {"node": target.node, "service": target.service, "tag": target.tag}
    return " ".join(f"{name}={value}" for name, value in given.items() if value)


def matching(target: Target, keys: Keys, client: ConsulClient) -> list[str] | None:
    """The names of the nodes that match now, sorted; None if it is for all.

    Those of the fleet are the ones that acknowledge; while none does, all nodes in Consul's catalogue count.

    Raises:
        ConsulUnavailable: Consul does not say.
        ConsulRefused: the token may not see who matches; the text has the rule to add.
    """
    if not (target.node or target.service):
        return None
    found = _members(keys, client)
    if target.node:
        pattern = re.compile(target.node)
        found = {name for name in found if pattern.search(name)}
    if found and target.service:
        found &= set(_with_service(target.service, target.tag, client))
        if not found and client.authorized("service", "read", "") is False:
            raise ConsulRefused(f"the token may not see all services{_ADD} service_prefix{_READ}")
    return sorted(found)


def _members(keys: Keys, client: ConsulClient) -> set[str]:
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (only a message with a target needs it)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

    nodes = {name for key in ConsulKV(client).keys(keys.nodes) if (name := keys.node_of(key))}
    if nodes:
        return nodes
    demand(client, "read", [keys.nodes], "knowing the nodes of the fleet")
    every = {str(one.get("Node")) for one in _objects(client, "/v1/catalog/nodes")}
    if not every:  # at least the agent's own is there
        raise ConsulRefused(f"the token may not see the nodes{_ADD} node_prefix{_READ}")
    return every


def _with_service(service: str, tag: str, client: ConsulClient) -> Iterator[str]:
    """The nodes with a service that matches, in the catalogue."""
    services = client.get("/v1/catalog/services").raw
    if not isinstance(services, Mapping):
        raise ConsulUnavailable("the answer to /v1/catalog/services is no object: is this a Consul agent?")
    named = [name for name in services if re.search(service, str(name))]
    for name in named[:_MOST_SERVICES]:
        for one in _objects(client, f"/v1/catalog/service/{name}"):
            tags = one.get("ServiceTags")
            every = tags if isinstance(tags, list) else []
            if not tag or any(re.search(tag, str(each)) for each in every):
                yield str(one.get("Node"))


def _objects(client: ConsulClient, path: str) -> list[Mapping[str, Any]]:
    found = client.get(path).raw
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ArgumentTypeError(f"it is no regular expression: {error}") from error
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ArgumentTypeError(f"a regular expression has 1 to {_LONGEST} printable characters")
    return text

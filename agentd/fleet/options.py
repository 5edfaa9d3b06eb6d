"""The section `fleet:` of the YAML file.

Values only: nothing here talks to Consul. Every start imports this module, so it imports nothing else of the
fleet but the key names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agentd.fleet.keys import is_node
from agentd.section import After, Before, Section, option
from agentd.trust.pattern import parse_pattern
from agentd.values import parse_fleet_name


def _node(node: str | None) -> str | None:
    if node is not None and not is_node(node):
        raise ValueError("must have 1 to 253 characters from A-Za-z0-9_.-, since it is part of a key")
    return node


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _patterns(patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if patterns is None else tuple(map(parse_pattern, patterns))


@dataclass(frozen=True, kw_only=True)
class FleetOptions(Section):
    """The fleet that this node belongs to. Unset or null: events are only hints, and Consul is only read."""

    name: Annotated[str, After(parse_fleet_name)] = option(
        description="Name of the fleet, the same on all its nodes; it keeps staging and production apart on"
        " one Consul. The fleet's keys are below `agentd/NAME/` in Consul's KV store."
    )
    node: Annotated[str | None, After(_node)] = option(
        None,
        description="Name of this node, unique in the fleet. Unset: the Consul agent's node name.",
    )
    datacenter: str | None = option(
        None,
        description="Datacenter whose KV store holds the log, the same on all nodes of a fleet. Unset: the"
        " agent's own.",
    )
    relay: bool = option(
        default=True,
        description="Whether this node writes the kept events that it hears to the log.",
    )
    service: bool = option(
        default=True,
        description="Whether to register the service `agentd`, with a health check, at the Consul agent."
        " Without it nobody notices a daemon that was killed while its Consul agent goes on.",
    )
    urgent: Annotated[tuple[str, ...] | None, Before(_as_list), After(_patterns)] = option(
        None,
        description="Names whose messages are applied even while the fleet is frozen (`agentd freeze`): a"
        " name, a beginning such as ban-*, or a list of them; [] for none. Unset: those that ip_blacklist or"
        " tls_ticket_keys takes.",
    )

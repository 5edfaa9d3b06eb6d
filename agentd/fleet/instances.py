"""Where the instances of a service are, by the catalogue.

Owns telling an empty list that means "none" from one that means "the token may not see them".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentd.errors import ConsulRefused
from agentd.watch.inquiry import Inquiry
from agentd.watch.queries import ServiceQuery, Source

_MAINTENANCE: Final = ("_node_maintenance", "_service_maintenance:")


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance. `status` is that of its worst check: maintenance, critical, warning or passing."""

    node: str
    address: str
    port: int
    tags: Sequence[str]
    status: str


@dataclass(frozen=True, slots=True)
class Roll:
    """All instances of a service, sorted by address.

    Attributes:
        filtered: Consul says that it left some out for want of a right.
    """

    instances: tuple[Instance, ...]
    filtered: bool


def call_roll(source: Source, service: str, *, fresh: bool = False) -> Roll:
    """Ask for them once; `fresh` asks the leader, whatever the options allow.

    Raises:
        ConsulRefused: the token may not see whether there is one.
        ConsulUnavailable: no answer.
    """
    query = ServiceQuery(service, passing=False)
    snapshot = query.fetch(source, fresh=fresh)
    if snapshot.empty:
        # An empty list is also what a token without the right gets.
        refusal = Inquiry(query, source, lambda: None).refusal()
        if refusal:
            raise ConsulRefused(f"Consul shows no instance of {service!r}: {refusal}")
    instances = sorted(map(_instance, snapshot.changes[0].raw), key=_order)
    return Roll(tuple(instances), snapshot.answer.filtered_by_acls)


def _instance(raw: Mapping[str, Any]) -> Instance:
    node, service = raw["Node"], raw["Service"]
    return Instance(
        node=node["Node"],
        address=service["Address"] or node["Address"],
        port=service["Port"],
        tags=sorted(service["Tags"] or ()),
        status=_status(raw["Checks"]),
    )


def _status(checks: Sequence[Mapping[str, Any]]) -> str:
    if any(check["CheckID"].startswith(_MAINTENANCE) for check in checks):
        return "maintenance"
    states = {check["Status"] for check in checks}
    return next((state for state in ("critical", "warning") if state in states), "passing")


def _order(one: Instance) -> tuple[int, int, str, int, str]:
    """Addresses by their number, host names after them."""
    try:
        address = ipaddress.ip_address(one.address)
    except ValueError:
        return 7, 0, one.address, one.port, one.node
    return address.version, int(address), "", one.port, one.node

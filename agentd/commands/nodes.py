"""`agentd nodes`: where the instances of a service are, by the catalogue.

Owns telling apart the three ways in which there can be none: the token sees nothing, the service is not
known, no instance is as asked.
"""

from __future__ import annotations

import ipaddress
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

from agentd.commands.output import Output
from agentd.config import load
from agentd.errors import AgentdError, ConsulRefused
from agentd.watch.client import ConsulClient
from agentd.watch.inquiry import Inquiry
from agentd.watch.queries import ServiceQuery

_COLUMNS: Final = ("ADDRESS", "PORT", "NODE", "STATUS", "TAGS")
_MAINTENANCE: Final = ("_node_maintenance", "_service_maintenance:")


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance. `status` is that of its worst check: maintenance, critical, warning or passing."""

    node: str
    address: str
    port: int
    tags: Sequence[str]
    status: str


def execute(arguments: Namespace, output: Output) -> int:
    """Print the addresses, sorted, each once; on a terminal a table of the instances.

    Raises:
        AgentdError: there is none.
        ConsulRefused: the token may not see whether there is one.
    """
    with closing(ConsulClient(load(arguments.config).config.consul)) as client:
        every = _instances(client, arguments.service)
    found = [one for one in every if _asked_for(one, arguments.tag, passing=arguments.passing)]
    if not found:
        raise AgentdError(_none(every, arguments))
    if output.json:
        output.document([asdict(one) for one in found])
    elif sys.stdout.isatty() and not arguments.plain:
        rows = [(one.address, one.port, one.node, one.status, ", ".join(one.tags)) for one in found]
        output.table(_COLUMNS, rows)
    else:
        for address in dict.fromkeys(one.address for one in found):
            output.line(address)
    return 0


def _instances(client: ConsulClient, service: str) -> list[Instance]:
    query = ServiceQuery(service, passing=False)
    snapshot = query.fetch(client)
    if snapshot.empty:
        # An empty list is also what a token without the right gets.
        refusal = Inquiry(query, client, lambda: None).refusal()
        if refusal:
            raise ConsulRefused(f"Consul shows no instance of {service!r}: {refusal}")
    if snapshot.answer.filtered_by_acls:
        sys.stderr.write("agentd: warning: the token may not see all instances\n")
    return sorted(map(_instance, snapshot.changes[0].raw), key=_order)


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


def _asked_for(one: Instance, tag: str | None, *, passing: bool) -> bool:
    # Consul compares tags without regard to case as well.
    tagged = tag is None or tag.lower() in map(str.lower, one.tags)
    return tagged and (not passing or one.status == "passing")


def _order(one: Instance) -> tuple[int, int, str, int, str]:
    """Addresses by their number, host names after them."""
    try:
        address = ipaddress.ip_address(one.address)
    except ValueError:
        return 7, 0, one.address, one.port, one.node
    return address.version, int(address), "", one.port, one.node


def _none(every: list[Instance], arguments: Namespace) -> str:
    if not every:
        return f"Consul knows no service {arguments.service!r}; `consul catalog services` lists them"
    wanted = [
        *(["passing"] if arguments.passing else []),
        *([f"tagged {arguments.tag!r}"] if arguments.tag else []),
    ]
    return f"no instance of {arguments.service!r} is {' and '.join(wanted)}; it has {len(every)} in all"

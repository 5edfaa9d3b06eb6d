"""`agentd fleet forget`: removes the acknowledgements of nodes that will not come back.

Never forgets a node that may still be alive. Several nodes are forgotten all together or not at all.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Final

from agentd.commands.output import Output
from agentd.commands.to_fleet import fleet
from agentd.errors import AgentdError, ConfigError
from agentd.fleet.keys import unheard_of
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.standing import Member

_PURPOSE: Final = "forgetting a node"
_REGISTERED: Final = (
    "is still registered in Consul as the service `agentd`, so rotations of ticket keys wait for it: run"
    " `agentd leave` there, or if the machine is gone, `consul force-leave` with the name of its Consul agent"
)


def forget(arguments: Namespace, output: Output) -> int:
    """Remove the nodes' documents, or with `--gone` those of all nodes that have been missing for a week.

    Args:
        arguments: `nodes`, `gone`, `force`, and the options of `add_fleet_arguments`.
        output: of the command.

    Raises:
        AgentdError: a node has no document, or would write it again; or it is unknown which nodes are gone.
        ConsulRefused: the token may not read or delete the documents; the text has the rules to add.
    """
    if bool(arguments.nodes) == arguments.gone:
        raise ConfigError(["name the nodes, or give --gone; `agentd fleet forget --help` says more"])
    with fleet(arguments) as reached:
        forgotten = _gone(reached, output) if arguments.gone else _named(reached, arguments, output)
    if output.json:
        output.document({"forgotten": forgotten})
    return 0


def _named(reached: ReachedFleet, arguments: Namespace, output: Output) -> list[str]:
    from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.keys import Keys, is_node  # noqa: PLC0415 (as above)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

    nodes = list(dict.fromkeys(arguments.nodes))
    keys = Keys(reached.name)
    demand(reached.client, "read", [keys.nodes], _PURPOSE)
    census = Census(reached.client, keys)
    documents = census.documents()
    registered = {name for names in census.registered().values() for name in names}
    for node in nodes:
        if node not in documents.indexes and node in registered:
            raise AgentdError(f"{node} does not acknowledge, but {_REGISTERED}")
        if node not in documents.indexes:
            raise AgentdError(
                f"no node {node!r} acknowledges in the fleet {reached.name!r}: see `agentd fleet`"
            )
    demand(reached.client, "write", [keys.node(node) for node in nodes if is_node(node)], _PURPOSE)
    if not arguments.force:
        for member in census.members(documents, census.catalogue(documents.datacenters)):
            if member.node in nodes:
                _refuse_alive(member)
    kv = ConsulKV(reached.client)
    for node in nodes:
        if not kv.delete(keys.node(node), documents.indexes[node]):
            raise AgentdError(f"{node} has just acknowledged again: look at `agentd fleet`")
        output.line(f"{node} is forgotten.", "green")
        if node in registered:
            sys.stderr.write(f"agentd: warning: {printable(node)} {_REGISTERED}\n")
    return nodes


def _gone(reached: ReachedFleet, output: Output) -> list[str]:
    from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
    from agentd.fleet.gone import DAYS, Gone  # noqa: PLC0415 (as above)
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

    keys = Keys(reached.name)
    demand(reached.client, "write", [keys.nodes], _PURPOSE)
    found = Gone(reached.client, keys).remove(time.time())
    for node in found.forgotten:
        output.line(f"{node} is forgotten: Consul has not known it for {DAYS} days.", "green")
    for node, days in found.absent.items():
        output.line(f"{node} stays for now: Consul has not known it for {days} of {DAYS} days.")
    if not found.forgotten and not found.absent:
        if not Census(reached.client, keys).documents().indexes:
            raise AgentdError(unheard_of(reached.name))
        output.line("Consul knows every node that acknowledges.")
    return list(found.forgotten)


def _refuse_alive(member: Member) -> None:
    """Raises AgentdError unless there is a sign that agentd no longer runs there."""
    if member.document and member.document.stopped is None and not member.silent:
        raise AgentdError(
            f"agentd runs on {member.node} as far as anybody can tell, and would acknowledge again: stop it"
            " there, and run `agentd leave`; if it is gone for good, add --force"
        )

"""`agentd fleet forget`: removes what nodes acknowledged that will not come back.

Owns that a node that may still be alive stays. Of several nodes all are forgotten, or none if there is
anything against one.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from agentd.commands.output import Output
from agentd.commands.to_fleet import fleet
from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.fleet.standing import Member


def forget(arguments: Namespace, output: Output) -> int:
    """Remove their documents.

    Args:
        arguments: `nodes`, `force`, and the options of `add_fleet_arguments`.
        output: of the command.

    Raises:
        AgentdError: a node has no document, or would write it again.
        ConsulRefused: the token may not read or delete the documents; the text has the rules to add.
    """
    from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.keys import Keys, is_node  # noqa: PLC0415 (as above)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

    nodes = list(dict.fromkeys(arguments.nodes))
    with fleet(arguments) as reached:
        keys = Keys(reached.name)
        demand(reached.client, "read", [keys.nodes], "forgetting a node")
        census = Census(reached.client, keys)
        documents = census.documents()
        for node in nodes:
            if node not in documents.indexes:
                raise AgentdError(
                    f"no node {node!r} acknowledges in the fleet {reached.name!r}: see `agentd fleet`"
                )
        demand(reached.client, "write", [keys.node(node) for node in nodes if is_node(node)], "forgetting")
        if not arguments.force:
            for member in census.members(documents, census.catalogue(documents.datacenters)):
                if member.node in nodes:
                    _refuse_alive(member)
        kv = ConsulKV(reached.client)
        for node in nodes:
            if not kv.delete(keys.node(node), documents.indexes[node]):
                raise AgentdError(f"{node} has just acknowledged again: look at `agentd fleet`")
            output.line(f"{node} is forgotten.", "green")
    if output.json:
        output.document({"forgotten": nodes})
    return 0


def _refuse_alive(member: Member) -> None:
    """Raises AgentdError if there is no sign that agentd does not run there any more."""
    if member.document and member.document.stopped is None and not member.silent:
        raise AgentdError(
            f"agentd runs on {member.node} as far as anybody can tell, and would acknowledge again: stop it"
            " there, and run `agentd leave`; if it is gone for good, add --force"
        )

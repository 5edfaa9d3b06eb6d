"""`agentd leave`: takes this node out of the fleet for good; removes its acknowledgement and its service.

Refuses while the daemon runs, and never removes the document of another node with the same name. nginx keeps
serving. The next start of agentd joins the fleet again.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.places import read_places
from agentd.commands.to_consul import consul
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import AgentdError, ConsulRefused

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.watch.client import ConsulClient


def add_arguments(parser: Parser) -> None:
    """Add the options that say which fleet."""
    parser.add_example("sudo agentd leave")
    add_fleet_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Remove this node's document and its service.

    Raises:
        AgentdError: agentd runs here, or the document is another node's.
        ConsulRefused: the token lacks a right; the text has the rules to add.
    """
    with fleet(arguments) as reached, consul(arguments) as agent:
        if read_places(arguments.config).running and _configured(reached):
            raise AgentdError(
                "agentd is running here and would acknowledge again: stop it first (`systemctl disable --now"
                " agentd`), or set `fleet: null` and reload it, and it leaves by itself"
            )
        node = _node(reached, agent)
        _demand_rights(reached, agent, node)
        document = _remove(reached, agent, node)
        service = _deregister(reached.name, node, agent)
    if output.json:
        output.document({"node": node, "document": document, "service": service})
    done = [what for what, was in (("its document", document), ("its service", service)) if was]
    output.line(
        f"{node} has left the fleet {reached.name}: {' and '.join(done)} removed."
        if done
        else f"{node} had nothing in the fleet {reached.name}."
    )
    return 0


def _configured(reached: ReachedFleet) -> bool:
    """Whether the configuration of this node has a fleet."""
    return reached.document is not None and bool(reached.document.data.get("fleet"))


def _node(reached: ReachedFleet, agent: ConsulClient) -> str:
    """This node's name in the fleet."""
    return (reached.options and reached.options.node) or agent.self_info().node


def _demand_rights(reached: ReachedFleet, agent: ConsulClient, node: str) -> None:
    """Require the rights first, since Consul hides a service that the token may not read.

    Raises:
        ConsulRefused: the token lacks a right; the text has the rules to add, and nothing has been removed.
    """
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.registration import RULE, SERVICE  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import missing_rules  # noqa: PLC0415 (as above)

    rules = missing_rules(reached.client, "write", [Keys(reached.name).node(node)])
    registers = reached.options is None or reached.options.service
    if registers and agent.authorized("service", "write", SERVICE) is False:
        rules.append(RULE)
    if rules:
        raise ConsulRefused(
            f"leaving the fleet needs more rights: add to the token's policy: {' '.join(rules)}"
        )


def _remove(reached: ReachedFleet, agent: ConsulClient, node: str) -> bool:
    """Remove the document. Returns whether there was one."""
    from agentd.fleet.departure import take_back  # noqa: PLC0415 (as above)
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)

    return take_back(ConsulKV(reached.client), Keys(reached.name), node, _agent_id(agent))


def _agent_id(agent: ConsulClient) -> str:
    """The ID of the local Consul agent; "" without the right to read it."""
    try:
        return agent.event_clock().node
    except ConsulRefused:
        return ""


def _deregister(fleet_name: str, node: str, agent: ConsulClient) -> bool:
    from agentd.fleet.registration import deregister  # noqa: PLC0415 (as above)

    return deregister(agent, fleet_name, node)

"""The load balancers that a command is about, as Consul knows them."""

from __future__ import annotations

import sys
from argparse import Namespace

from agentd.errors import AgentdError
from agentd.fleet.dynamic_upstream import Balancer, DynamicUpstream
from agentd.fleet.instances import Instance, call_roll
from agentd.watch.client import ConsulClient


def find_balancers(client: ConsulClient, arguments: Namespace) -> tuple[DynamicUpstream, ...]:
    """The interface of the upstream on each instance of the service `--on`.

    All of them, whatever their checks say, unless `--passing` is given: one that is skipped and comes back
    would serve what was taken down on the others.

    Raises:
        AgentdError: there is none.
        ConsulError: Consul does not say, or may not.
    """
    every = instances_of(client, arguments.on)
    found = [one for one in every if one.status == "passing" or not arguments.passing]
    if not found:
        which = (
            f"no instance of {arguments.on!r} is passing"
            if every
            else f"Consul knows no service {arguments.on!r}"
        )
        raise AgentdError(f"{which}: no load balancer to speak to; see `agentd nodes {arguments.on}`")
    places = dict.fromkeys(Balancer(one.node, one.address, one.port) for one in found)
    return tuple(
        DynamicUpstream(place, arguments.upstream, path=arguments.path, timeout=arguments.timeout)
        for place in places
    )


def instances_of(client: ConsulClient, service: str) -> tuple[Instance, ...]:
    """All instances, with a warning if there may be more. Raises ConsulError."""
    roll = call_roll(client, service)
    if roll.filtered:
        sys.stderr.write("agentd: warning: the token may not see all instances\n")
    return roll.instances

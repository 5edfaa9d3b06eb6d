"""The load balancers and the servers that a command is about, as Consul's catalogue has them.

Whoever can register a service is in it: an instance whose address is none, or leads back into this machine,
is refused with a message, and the others are used.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from agentd import command
from agentd.command import AgentdError
from handlers.nginx_upstream.commands.balancers import Balancer
from handlers.nginx_upstream.hosts import check_host
from handlers.nginx_upstream.interface import UpstreamInterface
from handlers.nginx_upstream.server import join_address

if TYPE_CHECKING:
    from agentd.command import ConsulClient, Instance

T = TypeVar("T")
_MOST_TOLD: Final = 10  # instances that are refused
_NODE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Found(NamedTuple, Generic[T]):
    """What can be used of what Consul lists, and how many instances were refused, each with a message."""

    usable: T
    refused: int


def find_balancers(client: ConsulClient, arguments: Namespace) -> Found[dict[Balancer, UpstreamInterface]]:
    """The interface of the upstream on each instance of the service `--on`.

    All of them, whatever their checks say, unless `--passing` is given: one that is skipped would, when it
    comes back, still send requests to a server that was taken down on the others.

    Raises:
        AgentdError: there is none, or none can be asked.
        ConsulError: Consul does not say, or the token may not ask.
    """
    every, refused = _all_instances(client, arguments.on)
    found = [one for one in every if one.status == "passing" or not arguments.passing]
    if not found:
        which = (
            f"no instance of {arguments.on!r} is passing"
            if every
            else f"Consul knows no service {arguments.on!r}"
        )
        raise AgentdError(f"{which}, so there is no load balancer to ask; see `agentd nodes {arguments.on}`")
    balancers: dict[Balancer, UpstreamInterface] = {}
    for one in found:
        try:
            balancer = _balancer(one, arguments)
        except ValueError as error:
            _refuse(one, f"load balancer: {error}", refused)
            refused += 1
        else:
            balancers[balancer] = UpstreamInterface(
                f"http://{balancer.address}{arguments.path}", arguments.upstream, timeout=arguments.timeout
            )
    if not balancers:
        raise AgentdError(f"no instance of {arguments.on!r} can be asked as a load balancer")
    return Found(balancers, refused)


def _balancer(instance: Instance, arguments: Namespace) -> Balancer:
    """Raises ValueError: it has no address and port, or not where a load balancer may be."""
    host = str(check_host(instance.address, arguments.networks, "--networks"))
    port = instance.port_named(arguments.on_port or "")
    join_address(host, port)
    return Balancer(instance.node, host, port)


def find_servers(client: ConsulClient, arguments: Namespace) -> Found[dict[str, Instance]]:
    """The instances of `--servers` by server, as nginx writes it, in order.

    Raises:
        AgentdError: there is none, or none can be deployed to.
        ConsulError: Consul does not say, or the token may not ask.
    """
    every, refused = _all_instances(client, arguments.servers)
    if not every:
        raise AgentdError(f"Consul knows no service {arguments.servers!r}: nothing to deploy to")
    servers: dict[str, Instance] = {}
    for one in every:
        try:
            servers[_server(one, arguments)] = one
        except ValueError as error:
            _refuse(one, f"server: {error}", refused)
            refused += 1
    if not servers:
        raise AgentdError(f"no instance of {arguments.servers!r} can be deployed to")
    return Found(servers, refused)


def _server(instance: Instance, arguments: Namespace) -> str:
    """Raises ValueError: a load balancer cannot be asked about it, or a command not be told of it."""
    if not _NODE.fullmatch(instance.node):  # a command might take it for an option, or for more
        raise ValueError("the name of its node cannot be put into a command: rename it")
    host = check_host(instance.address, arguments.networks, "--networks")
    return join_address(str(host), instance.port_named(arguments.port or ""))


def _refuse(instance: Instance, reason: str, earlier: int) -> None:
    """Say that an instance is left out, unless so many were that nobody would read it."""
    if earlier < _MOST_TOLD:
        name = f"instance {instance.id[:64]!a} on node {instance.node[:64]!a}"
        sys.stderr.write(f"agentd: {name} is refused as a {reason}\n")
    elif earlier == _MOST_TOLD:
        sys.stderr.write("agentd: more instances are refused\n")


def _all_instances(client: ConsulClient, service: str) -> Found[tuple[Instance, ...]]:
    """All instances, with a warning if there may be more. Raises ConsulError."""
    instances = command.find_instances(client, service)
    if instances.filtered:
        sys.stderr.write("agentd: warning: the token may not see all instances\n")
    for one in instances.odd[:_MOST_TOLD]:
        sys.stderr.write(f"agentd: instance {one.name or '?'} is refused: it has no usable {one.reason}\n")
    return Found(instances.every, len(instances.odd))

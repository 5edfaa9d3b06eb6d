"""Registers the service `agentd` with the local Consul agent, for the sake of its health check alone.

What the node runs is in its acknowledgement and not here, since changed service data wakes every watcher of
the catalogue, and a check's output may be five minutes old.
https://developer.hashicorp.com/consul/api-docs/agent/service#register-service
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from agentd.errors import ConsulUnavailable
from agentd.fleet.keys import is_node
from agentd.watch.client import ConsulClient

SERVICE: Final = "agentd"
"""The name of the service."""
RULE: Final = f'service "{SERVICE}" {{ policy = "write" }}'
"""The ACL rule that allows registering it."""
_PREFIX: Final = "/v1/agent/service/"


def service_id(fleet: str, node: str) -> str:
    """The ID of the instance, unique even if one Consul agent serves daemons of several fleets."""
    return f"{SERVICE}-{fleet}-{node}"


def node_of(service: Mapping[str, Any], fleet: str) -> str | None:
    """The node of this fleet for which the service was registered; None if it is not one of agentd's."""
    name = str(service.get("ID")).removeprefix(service_id(fleet, ""))
    is_ours = service_id(fleet, name) == service.get("ID") and fleet in (service.get("Tags") or ())
    return name if is_ours and is_node(name) else None


def ensure(client: ConsulClient, fleet: str, node: str, status: str, *, afresh: bool = False) -> bool:
    """Register the service unless it is, and deregister it under this daemon's former names.

    Args:
        client: the local agent's client.
        fleet: the fleet's name, which becomes a tag.
        node: this node's name in the fleet.
        status: URL of the daemon's HTTP endpoints, without a path.
        afresh: reset the check: after a start of the daemon, it would otherwise stay critical until its next
            run.

    Returns:
        Whether it was registered just now.

    Raises:
        ConsulUnavailable: there was no answer.
        ConsulRefused: the token lacks `RULE`.
    """
    wanted = _definition(fleet, node, status)
    every = _services(client)
    for identity, one in every.items():
        if identity != wanted["ID"] and one.get("Service") == SERVICE and one.get("Meta") == wanted["Meta"]:
            _forget(client, identity)  # this daemon under a former name
    known = every.get(wanted["ID"])
    if not afresh and known and known.get("Meta") == wanted["Meta"] and known.get("Tags") == wanted["Tags"]:
        return False
    if afresh and known:  # a check that is only replaced keeps its status
        client.send("PUT", f"{_PREFIX}deregister/{quote(service_id(fleet, node))}")
    client.send(
        "PUT", f"{_PREFIX}register", [("replace-existing-checks", "true")], json.dumps(wanted).encode()
    )
    return True


def deregister(client: ConsulClient, fleet: str, node: str) -> bool:
    """Deregister the service. Returns whether it was registered.

    Raises:
        ConsulUnavailable: there was no answer.
        ConsulRefused: the token lacks `RULE`.
    """
    identity = service_id(fleet, node)
    if identity not in _services(client):
        return False
    _forget(client, identity)
    return True


def _forget(client: ConsulClient, identity: str) -> None:
    client.send("PUT", f"{_PREFIX}deregister/{quote(identity)}")


def _services(client: ConsulClient) -> dict[str, Mapping[str, Any]]:
    """The services registered with the agent, by ID."""
    services = client.agent.services()
    if not isinstance(services, Mapping):
        raise ConsulUnavailable(
            "the agent's list of services has an unexpected form: is this a Consul agent?"
        )
    return {identity: one for identity, one in services.items() if isinstance(one, Mapping)}


def _definition(fleet: str, node: str, status: str) -> dict[str, Any]:
    """The service definition. It has no port: the check alone matters.

    The agent asks its own node for yes or no, without a token, so that the certificate need not be for the
    address, nor its authority be known to the agent.
    """
    return {
        "ID": service_id(fleet, node),
        "Name": SERVICE,
        "Tags": [fleet],
        "Meta": {"check": status.removeprefix("http://")},  # since the agent does not show a check's address
        "Check": {
            "Name": "agentd: every thread is alive",
            "HTTP": f"{status}/healthz",
            "TLSSkipVerify": True,
            "Status": "passing",  # the daemon that registers it is alive
            "Interval": "10s",
            "Timeout": "5s",
        },
    }

"""The service `agentd` at the local Consul agent: its health check is all that it is for.

What a node runs stands in its acknowledgement: a change of service data wakes every watcher of the catalogue,
and the output of a check may be five minutes old.
https://developer.hashicorp.com/consul/api-docs/agent/service#register-service
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from agentd.errors import ConsulUnavailable
from agentd.watch.client import ConsulClient

SERVICE: Final = "agentd"
"""The service by which the daemon's health is known."""
RULE: Final = f'service "{SERVICE}" {{ policy = "write" }}'
"""The ACL rule that it takes to register it."""
_PREFIX: Final = "/v1/agent/service/"


def service_id(fleet: str, node: str) -> str:
    """Of the instance: one agent may serve daemons of several fleets."""
    return f"{SERVICE}-{fleet}-{node}"


def node_of(service: Mapping[str, Any], fleet: str) -> str | None:
    """As which node of this fleet such a service was registered; None if it was not."""
    name = str(service.get("ID")).removeprefix(service_id(fleet, ""))
    return (
        name
        if service_id(fleet, name) == service.get("ID") and fleet in (service.get("Tags") or ())
        else None
    )


def ensure(client: ConsulClient, fleet: str, node: str, status: str, *, afresh: bool = False) -> bool:
    """Have the agent know the service, and under no other name; it forgets it if its data is lost.

    Args:
        client: of the local agent.
        fleet: its name, which becomes a tag.
        node: as which this node acknowledges.
        status: address and port of the daemon's HTTP endpoints.
        afresh: forget what the check found before: the daemon has just started, and the check that failed
            while nothing answered would go on saying so until its next turn.

    Returns:
        Whether it had to be registered.

    Raises:
        ConsulUnavailable: no answer.
        ConsulRefused: the token lacks `RULE`.
    """
    wanted = _definition(fleet, node, status)
    every = _services(client)
    for identity, one in every.items():
        if identity != wanted["ID"] and one.get("Service") == SERVICE and one.get("Meta") == wanted["Meta"]:
            _forget(client, identity)  # this daemon, when it had another name
    known = every.get(wanted["ID"])
    if not afresh and known and known.get("Meta") == wanted["Meta"] and known.get("Tags") == wanted["Tags"]:
        return False
    if afresh and known:  # a check that is replaced keeps its status
        client.send("PUT", f"{_PREFIX}deregister/{quote(service_id(fleet, node))}")
    client.send(
        "PUT", f"{_PREFIX}register", [("replace-existing-checks", "true")], json.dumps(wanted).encode()
    )
    return True


def deregister(client: ConsulClient, fleet: str, node: str) -> bool:
    """Have the agent forget the service. Returns whether it knew it.

    Raises:
        ConsulUnavailable: no answer.
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
    """What the agent knows of its services, by ID."""
    services = client.agent.services()
    if not isinstance(services, Mapping):
        raise ConsulUnavailable(
            "the agent's list of services has an unexpected form: is this a Consul agent?"
        )
    return {identity: one for identity, one in services.items() if isinstance(one, Mapping)}


def _definition(fleet: str, node: str, status: str) -> dict[str, Any]:
    """Without a port: the endpoints listen on loopback, and are for nobody else."""
    return {
        "ID": service_id(fleet, node),
        "Name": SERVICE,
        "Tags": [fleet],
        "Meta": {"check": status},  # of the check itself the agent does not tell the address
        "Check": {
            "Name": "agentd: every thread is alive",
            "HTTP": f"http://{status}/healthz",
            "Status": "passing",  # whoever registers it is alive; a failing check says so within its interval
            "Interval": "10s",
            "Timeout": "5s",
        },
    }

"""A fleet whose ring of ticket keys is coordinated: nodes with a real nginx, and the host that publishes.

The nodes share one Consul agent. The document is published by hand here, sealed; who decides what follows is
not this module's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from agentd.fleet.acknowledgement import Acknowledgement, Name
from agentd.fleet.acknowledgement_codec import parse
from agentd.fleet.keys import Keys
from agentd.trust.key_files import write_key
from agentd.trust.keys import new_fleet_key, new_secret_key
from handlers.tls_ticket_keys.document import Document
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient
from tests.servers.waiting import wait_until

VERSIONS = (TLS12, TLS13)


class TicketFleet:
    """Nodes that take their ticket keys from the fleet's log.

    Args:
        stack: stops the nodes.
        directory: empty, and the fleet's own; keep its path short.
        certificate: shown by every nginx.
        consul: the agent of all nodes.
        name: of the fleet, and of the event.
    """

    def __init__(
        self, stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent, name: str
    ) -> None:
        self.name = name
        self.consul = consul
        self.nodes: list[Node] = []
        self._stack, self._directory, self._certificate = stack, directory, certificate
        self._fleet_key, self._signing_key = directory / "fleet.key", directory / "ops.key"
        signer = new_secret_key()
        write_key(self._fleet_key, new_fleet_key())
        write_key(self._signing_key, signer)
        self.trust = {
            "publishers": {"ops": {"key": signer.public.text, "may": [name]}},
            "require": "signed",
            "seal": [name],
            "fleet_keys": [str(self._fleet_key)],
        }

    def add(self, settings: Mapping[str, Any] | None = None, **options: object) -> Node:
        """One more node, not started: its handler's options, and more of agentd's configuration."""
        number = len(self.nodes) + 1
        handlers = {
            "ticket-keys": {
                "use": "tls_ticket_keys",
                "on": [{"event": self.name, "keep": "latest"}],
                "notify": ["nginx-reload"],
                "options": {"promote_after": "0s"} | options,
            },
            "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
        }
        fleet = {"name": self.name, "node": f"node{number}", "service": False}
        node = Node(
            self._directory / f"n{number}",
            self._certificate,
            number=number,
            consul=self.consul,
            handlers=handlers,
            settings={"fleet": fleet, "trust": self.trust} | dict(settings or {}),
        )
        self._stack.callback(node.stop)
        self.nodes.append(node)
        return node

    def publish(self, document: Document) -> int:
        """Publish a document as the operator of a node with the signing key does; returns its number."""
        node, admin, file = self.nodes[0], self._directory / "admin.yaml", self._directory / "document.json"
        admin.write_text(
            yaml.safe_dump(node.config | {"trust": self.trust | {"signing_key": str(self._signing_key)}})
        )
        file.write_bytes(document.render())
        arguments = ["publish", self.name, "--file", str(file), "--keep", "latest", "--json"]
        ran = node.agentd.command(*arguments, "--config", str(admin))
        file.unlink()
        assert ran.returncode == 0, ran.stderr
        return int(json.loads(ran.stdout)["num"])

    def acknowledged(self, node: Node) -> Acknowledgement | None:
        """What a node acknowledges."""
        found = self.consul.kv_get(Keys(self.name).node(node.name))
        return parse(found) if found else None

    def await_live(self, num: int, *nodes: Node) -> None:
        """Wait until these nodes, or all, acknowledge that this document is in force."""
        for node in nodes or self.nodes:
            wait_until(partial(self._is_live, num, node), f"{num} to be live on {node.name}")

    def _is_live(self, num: int, node: Node) -> bool:
        found = self.acknowledged(node)
        return found is not None and found.names.get(self.name, Name()).live == num


class Client:
    """A client of one TLS version that has a session, and bounces between nodes."""

    def __init__(self, certificate: Certificate, version: Any) -> None:  # noqa: ANN401 (of `ssl`)
        self._tls = TLSClient(certificate, version)

    def resumes(self, node: Node) -> bool:
        """Connect to a node; whether the session was resumed there."""
        return self._tls.connect(node.nginx.address, node.nginx.tls_port).resumed


def clients(certificate: Certificate, node: Node) -> list[Client]:
    """One of each version, with a session that was begun on this node."""
    made = [Client(certificate, version) for version in VERSIONS]
    assert [one.resumes(node) for one in made] == [False, False]
    return made

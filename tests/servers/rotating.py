"""A fleet that rotates its session ticket keys: on every node a real Consul agent, nginx and agentd.

The first two nodes have the key of the publisher who rotates; a host beside them could as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import yaml

from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.acknowledgement_codec import parse
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader
from agentd.trust.key_files import write_key
from agentd.trust.keyring import Keyring, Publisher
from agentd.trust.keys import FleetKey, new_fleet_key, new_secret_key
from agentd.trust.pattern import FREEZE
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from handlers.tls_ticket_keys.document import Document
from tests.servers.fleet import TICKET_EVENT, Node, start_agents, start_nodes
from tests.servers.process import ServerProcess
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

FLEET = "rotating"
COORDINATORS = 2
MAY = (TICKET_EVENT, FREEZE)


def handlers(**options: object) -> dict[str, Any]:
    """The `handlers:` section: keys from the fleet's log, and nginx."""
    return {
        "ticket-keys": {
            "use": "tls_ticket_keys",
            "on": [{"event": TICKET_EVENT, "keep": "latest"}],
            "notify": ["nginx-reload"],
            "options": options,
        },
        "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
    }


class RotatingFleet:
    """So many nodes, which `stack` stops."""

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        certificate: Certificate,
        size: int = 3,
        *,
        servers: int = 1,
        trust: Mapping[str, Any] | None = None,
        **options: object,
    ) -> None:
        self.directory = directory
        ops, fleet = new_secret_key(), new_fleet_key()
        self.keys = {name: directory / "keys" / f"{name}.key" for name in ("ops", "fleet")}
        write_key(self.keys["ops"], ops)
        write_key(self.keys["fleet"], fleet)
        self._publisher = Publisher("ops", (ops.public,), MAY)
        self._opens = [fleet]
        self.trust: dict[str, Any] = {
            "publishers": {"ops": {"key": ops.public.text, "may": list(MAY)}},
            "require": "signed",
            "seal": [TICKET_EVENT],
            "fleet_keys": [str(self.keys["fleet"])],
        } | dict(trust or {})
        self.certificate = certificate
        self.settings = {"fleet": {"name": FLEET}, "trust": self.trust}
        agents = start_agents(stack, directory, size, servers=servers)
        self.nodes = start_nodes(stack, directory, certificate, agents, handlers(**options), self.settings)
        for node in self.nodes[:COORDINATORS]:  # only the commands read it
            node.config["trust"] = self.trust | {"signing_key": str(self.keys["ops"])}
            node.configure()

    def rotate(
        self, *words: str, node: Node | None = None, status: int = 0, timeout: str = "60s"
    ) -> dict[str, Any]:
        """Run `agentd rotate-tickets` on a node, by default the first; what it tells a program."""
        ran = (node or self.nodes[0]).agentd.command("rotate-tickets", "--json", "--timeout", timeout, *words)
        assert ran.returncode == status, ran.stdout + ran.stderr
        told: dict[str, Any] = json.loads(ran.stdout)
        return told

    def begin(self, *words: str, node: Node | None = None) -> ServerProcess:
        """Start `agentd rotate-tickets` on a node, and leave it running."""
        one = node or self.nodes[0]
        argv = [*one.agentd.process.argv[:1], "rotate-tickets", "--config", str(one.configuration), *words]
        made = ServerProcess(argv, self.directory / "rotate.log")
        made.start(lambda: True)
        return made

    def head(self, node: Node | None = None) -> Head | None:
        """The head of the log, through a node's agent."""
        with closing(self._client(node or self.nodes[0])) as client:
            return Reader(ConsulKV(client), Keys(FLEET)).head(TICKET_EVENT)

    def document(self, node: Node | None = None) -> Document | None:
        """The newest document; None before the first."""
        with closing(self._client(node or self.nodes[0])) as client:
            reader = Reader(ConsulKV(client), Keys(FLEET))
            head = reader.head(TICKET_EVENT)
            message = reader.message(TICKET_EVENT, head.newest) if head else None
        if message is None or message.signed is None:
            return None
        keyring = Keyring([self._publisher], self._opens)
        return Document.parse(keyring.body(keyring.verify(message.signed)) or b"")

    def trust_key(self, key: FleetKey) -> None:
        """Open documents that are sealed with this key of the fleet, too."""
        self._opens.append(key)

    def await_phase(self, phase: str) -> Document:
        """Wait for a document of that phase."""

        def found() -> Document | None:
            document = self.document()
            return document if document and document.phase == phase else None

        reached = wait_until(found, f"the phase {phase}")
        assert reached is not None
        return reached

    def acknowledged(self, node: Node) -> Acknowledgement | None:
        """What a node acknowledges."""
        raw = self.nodes[0].consul.kv_get(Keys(FLEET).node(node.name))
        return parse(raw) if raw else None

    def names(self, node: Node) -> Sequence[bytes]:
        """The names of the keys that nginx of a node was given, the encrypting one first."""
        return [path.read_bytes()[:16] for path in node.tickets()]

    @staticmethod
    def _client(node: Node) -> ConsulClient:
        return ConsulClient(ConsulOptions(address=f"{node.consul.address}:{node.consul.ports['http']}"))


def retrust(node: Node, trust: dict[str, Any]) -> None:
    """Give a node another section `trust:`, which it reads at once."""
    node.config["trust"] = trust
    node.configuration.write_text(yaml.safe_dump(node.config, sort_keys=False))
    node.agentd.reload()

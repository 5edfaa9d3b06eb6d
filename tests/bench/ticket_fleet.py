"""Five nodes whose session ticket keys are rotated: coordinated, by events, or in one file by a shell script.

All three are fed by the same Consul agents, and begin with keys that all of their nodes have.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader
from agentd.trust.key_files import write_key
from agentd.trust.keyring import Keyring, Publisher
from agentd.trust.keys import new_fleet_key, new_secret_key
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from handlers.tls_ticket_keys.document import Document
from tests.bench.watch import ConsulWatch
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import TICKET_EVENT, start_nodes
from tests.servers.nginx import Nginx
from tests.servers.tls import Certificate

NODES: Final = 5
FLEET: Final = "bench"
ROTATIONS: Final = int(os.environ.get("TICKET_ROTATIONS", "60"))
EVERY: Final = float(os.environ.get("TICKET_EVERY", "4"))
"""Seconds from the beginning of one rotation to that of the next, unless it takes longer."""
OLDEST: Final = 60.0
"""Seconds for which a client offers its session; nginx's session timeout is 300 s."""
RATE: Final = float(os.environ.get("TICKET_RATE", "100"))
"""Connections a second."""
KEEP: Final = 100
"""Keys beside the newest: at this pace none may retire before the end."""
EVENT: Final = "bench-ticket-refresh"
_PATIENCE: Final = 1.0  # seconds for each answer of an agent that may be frozen
_SCRIPT: Final = """\
#!/bin/bash
set -eu
new=$(jq -r '.[-1].Payload // empty' | base64 -d)
[ "$new" ] || exit 0
printf '%s' "$new" | base64 -d > {conf}/ticket.key
{nginx} -p {directory} -c {conf}/nginx.conf -e {directory}/error.log -s reload
"""


class Coordinated:
    """Nodes that follow the document of the ring, which `agentd rotate-tickets` moves on.

    The first two nodes have the key that signs.
    """

    def __init__(
        self, stack: ExitStack, directory: Path, certificate: Certificate, agents: Sequence[ConsulAgent]
    ) -> None:
        ops, fleet = new_secret_key(), new_fleet_key()
        directory.mkdir(exist_ok=True)
        files = {name: directory / "keys" / f"{name}.key" for name in ("ops", "fleet")}
        write_key(files["ops"], ops)
        write_key(files["fleet"], fleet)
        self._keyring = Keyring([Publisher("ops", (ops.public,), (TICKET_EVENT,))], [fleet])
        self._trust = {
            "publishers": {"ops": {"key": ops.public.text, "may": [TICKET_EVENT]}},
            "require": "signed",
            "seal": [TICKET_EVENT],
            "fleet_keys": [str(files["fleet"])],
        }
        settings = {"fleet": {"name": FLEET}, "trust": self._trust}
        handlers = ticket_keys({"event": TICKET_EVENT, "keep": "latest"}, keep=KEEP)
        self.nodes = start_nodes(stack, directory, certificate, agents, handlers, settings)
        self.coordinators = self.nodes[:2]
        for node in self.coordinators:  # only the commands read it
            node.config["trust"] = self._trust | {"signing_key": str(files["ops"])}
            node.configure()

    @property
    def servers(self) -> Mapping[str, Nginx]:
        """The nginx of each node."""
        return {node.name: node.nginx for node in self.nodes}

    def document(self, through: ConsulAgent) -> tuple[int, Document | None]:
        """The number of the newest document, and what it says; (0, None) before the first one.

        Raises:
            AgentdError: that agent cannot tell.
        """
        options = ConsulOptions(address=f"{through.address}:{through.ports['http']}").impatient(_PATIENCE)
        with closing(ConsulClient(options)) as client:
            reader = Reader(ConsulKV(client), Keys(FLEET))
            head = reader.head(TICKET_EVENT)
            message = reader.message(TICKET_EVENT, head.newest) if head else None
        if head is None or message is None or message.signed is None:
            return 0, None
        body = self._keyring.body(self._keyring.verify(message.signed))
        return head.newest, Document.parse(body or b"")


class ByEvents:
    """Nodes without a fleet: each promotes a new key when it has heard of it for `promote_after`."""

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        certificate: Certificate,
        agents: Sequence[ConsulAgent],
        promote_after: str,
    ) -> None:
        directory.mkdir(exist_ok=True)
        handlers = ticket_keys({"event": EVENT}, keep=KEEP, promote_after=promote_after)
        self.nodes = start_nodes(stack, directory, certificate, agents, handlers)

    @property
    def servers(self) -> Mapping[str, Nginx]:
        """The nginx of each node."""
        return {node.name: node.nginx for node in self.nodes}


class OneFile:
    """The talk's handler: on each node `consul watch`, whose script overwrites the one key and reloads."""

    def __init__(
        self, stack: ExitStack, directory: Path, certificate: Certificate, agents: Sequence[ConsulAgent]
    ) -> None:
        directory.mkdir(exist_ok=True)
        first = secrets.token_bytes(80)
        self.servers: dict[str, Nginx] = {}
        for agent in agents:
            place = directory / agent.node
            place.mkdir()
            nginx = Nginx(place, certificate, address=agent.address)
            nginx.seed_tree()
            conf = nginx.conf.parent
            (conf / "ticket.key").write_bytes(first)
            nginx.configure(http="ssl_session_ticket_key ticket.key;")
            stack.callback(nginx.stop)
            nginx.start()
            script = place / "rotate.sh"
            script.write_text(_SCRIPT.format(conf=conf, directory=place, nginx=nginx.binary))
            script.chmod(0o755)
            watch = ConsulWatch(agent, EVENT, script)
            stack.callback(watch.stop)
            watch.start()
            self.servers[agent.node] = nginx


def ticket_keys(on: Mapping[str, Any], **options: Any) -> dict[str, Any]:  # noqa: ANN401 (of the handler)
    """The `handlers:` section of a node that has ticket keys and nothing else."""
    return {
        "ticket-keys": {
            "use": "tls_ticket_keys",
            "on": [dict(on)],
            "notify": ["nginx-reload"],
            "options": options,
        },
        "nginx-reload": {"use": "nginx_reload"},
    }


def fire_key(through: ConsulAgent) -> None:
    """Fire an event with a new key, as cron does."""
    through.fire(EVENT, base64.b64encode(os.urandom(48)))

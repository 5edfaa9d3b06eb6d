"""A fleet: on every node a real Consul agent, a real nginx and a real agentd, on 127.0.0.1, .2, .3, ..."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import yaml

from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.tls import Certificate
from tests.servers.waiting import PATIENCE, wait_until

_HISTORY = "SELECT id, handler, kind, outcome, reason, generation FROM changes ORDER BY seq DESC"
TICKET_EVENT = "tls-session-ticket-refresh"
BLACKLIST_EVENT = "ip-blacklist"


def main_job(
    *, promote_after: str = "60s", interval: str = "1s", suffix: str = "", kept: bool = False
) -> dict[str, Any]:
    """The `handlers:` section of the main job: ticket keys and a blacklist, both reloading nginx.

    Nodes that share a Consul agent with other tests give their events a `suffix` of their own. `kept`: the
    blacklist's events are kept in the log of a fleet.
    """
    keep = {"keep": "all"} if kept else {}
    return {
        "ticket-keys": {
            "use": "tls_ticket_keys",
            "on": [{"event": TICKET_EVENT + suffix}],
            "notify": ["nginx-reload"],
            "options": {"promote_after": promote_after},
        },
        "blacklist": {
            "use": "ip_blacklist",
            "on": [{"event": BLACKLIST_EVENT + suffix, **keep}],
            "notify": ["nginx-reload"],
        },
        "nginx-reload": {"use": "nginx_reload", "options": {"interval": interval}},
    }


class Node:
    """One node of the fleet.

    Args:
        directory: empty and the node's own; keep its path short, it holds a unix socket.
        certificate: shown by its nginx.
        number: 1 for 127.0.0.1, and so on.
        consul: the agent on the node, started by the caller.
        handlers: the `handlers:` section.
        settings: more of agentd's configuration, merged at the top level.
    """

    def __init__(  # noqa: PLR0913 (one has this many sides; all but two are named at the call)
        self,
        directory: Path,
        certificate: Certificate,
        *,
        number: int,
        consul: ConsulAgent,
        handlers: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        workers: int = 1,
    ) -> None:
        address = f"127.0.0.{number}"
        self.name = f"node{number}"
        self.directory = directory
        self.consul = consul
        (directory / "nginx").mkdir(parents=True)
        self.nginx = Nginx(directory / "nginx", certificate, address=address, workers=workers)
        guarded = any(entry["use"] == "ip_blacklist" for entry in handlers.values())
        self.nginx.configure(server="if ($agentd_blocked) { return 403; }" if guarded else "")
        port = free_port(address)
        self.configuration = directory / "agentd.yaml"
        self.config: dict[str, Any] = {
            "consul": {"address": f"{consul.address}:{consul.ports['http']}"},
            "nginx": self.nginx.agentd_section,
            "tree": {"path": str(self.nginx.tree)},
            "state": str(directory / "state"),
            "status": {"address": f"{address}:{port}"},
            "handlers": dict(handlers),
        } | dict(settings or {})
        self.configure()
        self.agentd = AgentdProcess(self.configuration, directory / "agentd.log", (address, port))

    def configure(self, handlers: Mapping[str, Any] | None = None) -> None:
        """Write agentd's configuration, with other handlers if given."""
        if handlers is not None:
            self.config["handlers"] = dict(handlers)
        self.configuration.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def start(self) -> Node:
        """Start agentd, and then nginx on the first generation, as systemd orders them."""
        self.agentd.start()
        self.nginx.start()
        return self

    def fire(self, name: str, payload: bytes) -> str:
        """Fire an event through the node's own agent; returns its ID."""
        return self.consul.fire(name, payload)

    def history(self, handler: str | None = None) -> list[dict[str, Any]]:
        """The journal's rows, newest first; read from the file, which is quicker than `agentd history`."""
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=60)) as journal:
            journal.row_factory = sqlite3.Row
            rows = journal.execute(_HISTORY).fetchall()
        return [dict(row) for row in rows if handler in (None, row["handler"])]

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.directory / "state" / "journal.db"

    def entry(self, event: str) -> dict[str, Any] | None:
        """The history's entry of one event, or None while it has not come."""
        return next((entry for entry in self.history() if entry["id"] == event), None)

    def outcome(self, event: str) -> dict[str, Any]:
        """Wait for the event's outcome and return its entry."""

        def ended() -> dict[str, Any]:
            entry = self.entry(event)
            return entry if entry and entry["outcome"] else {}

        return wait_until(ended, f"the outcome of {event}", pause=0.1)

    def content(self) -> dict[str, bytes]:
        """Every file of the current generation, and the generation itself."""
        current = self.nginx.tree / "current"
        files = {
            str(path.relative_to(current)): path.read_bytes() for path in current.rglob("*") if path.is_file()
        }
        return files | {"generation": str(self.generation).encode()}

    def passes_check(self) -> bool:
        """Whether `nginx -t` accepts what nginx would load now."""
        argv = [self.nginx.binary, "-t", "-q", "-p", str(self.nginx.directory), "-c", str(self.nginx.conf)]
        return subprocess.run(argv, capture_output=True, timeout=PATIENCE, check=False).returncode == 0

    def stop(self) -> None:
        """Stop both; the Consul agent is the caller's."""
        if self.agentd.process.running:
            self.agentd.stop()
        self.nginx.stop()  # also if only workers without a master are left

    @property
    def generation(self) -> int:
        """The generation that `current` points to."""
        return int((self.nginx.tree / "current").readlink().name)

    def read(self, path: str) -> bytes:
        """A file of the current generation."""
        return (self.nginx.tree / "current" / path).read_bytes()

    def tickets(self, generation: int | None = None) -> list[Path]:
        """The session ticket key files, in nginx's order: the first encrypts; None: of what is current."""
        made = "current" if generation is None else f"generations/{generation:06}"
        lines = (self.nginx.tree / made / "tickets/tickets.conf").read_text().splitlines()
        named = [line.split()[1].rstrip(";") for line in lines if line.startswith("ssl_session_ticket_key")]
        return [self.nginx.conf.parent / name for name in named]


def start_fleet(
    stack: ExitStack,
    directory: Path,
    certificate: Certificate,
    size: int,
    handlers: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> list[Node]:
    """Start `size` nodes, a Consul server on the first and clients on the others; `stack` stops them."""
    agents = start_agents(stack, directory, size)
    return start_nodes(stack, directory, certificate, agents, handlers, settings)


def start_agents(stack: ExitStack, directory: Path, size: int, *, servers: int = 1) -> list[ConsulAgent]:
    """Start `size` Consul agents, of which the first are servers; `stack` stops them."""
    agents: list[ConsulAgent] = []
    for number in range(1, size + 1):
        place = directory / f"n{number}" / "consul"
        place.mkdir(parents=True)
        agent = ConsulAgent(
            place,
            node=f"node{number}",
            address=f"127.0.0.{number}",
            join=agents[0] if agents else None,
            server=number <= servers,
        )
        stack.callback(agent.stop)
        agents.append(agent)
        agent.start()
    return agents


def start_nodes(
    stack: ExitStack,
    directory: Path,
    certificate: Certificate,
    agents: Sequence[ConsulAgent],
    handlers: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> list[Node]:
    """Start a node on each agent, in directories of their own; `stack` stops them."""
    nodes: list[Node] = []
    for number, consul in enumerate(agents, 1):
        place = directory / f"n{number}"
        node = Node(place, certificate, number=number, consul=consul, handlers=handlers, settings=settings)
        stack.callback(node.stop)
        nodes.append(node)
    for node in nodes:
        node.start()
    return nodes

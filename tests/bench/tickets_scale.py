"""A rotation of 1,000 simulated nodes, by the real command on a real Consul.

Each node acknowledges a document as a real one does: after as long as a reload and its proof take, and within
the time over which the wakes of so many nodes are spread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import yaml

from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.head import parse_head
from agentd.fleet.keys import Keys
from agentd.trust.key_files import write_key
from agentd.trust.keys import new_fleet_key, new_secret_key
from tests.bench.fleet_acknowledgements import NODES, WAKE, write_all
from tests.bench.rows import Row, p50, spread
from tests.bench.ticket_fleet import FLEET, KEEP, ticket_keys
from tests.servers.acknowledgers import acknowledgement
from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import TICKET_EVENT

TIMES: Final = 5
_GOAL: Final = 15.0
_RELOAD: Final = 0.3  # seconds
_LOOK: Final = 0.02
_MANY: Final = {"limits": {"http_max_conns_per_client": 1000}}


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """The worst of several counts."""
    agent = ConsulAgent(directory, extra=_MANY)
    stack.callback(agent.stop)
    agent.start()
    nodes = _Nodes(agent)
    stack.callback(nodes.stop)
    nodes.start()
    host = _host(directory, agent)
    took = []
    for _ in range(1 + TIMES):
        began = time.monotonic()
        done = host.command("rotate-tickets", "--timeout", "60s")
        took.append(time.monotonic() - began)
        if done.returncode != 0:
            raise RuntimeError(f"not rotated: status {done.returncode}: {done.stdout}{done.stderr}")
    yield Row(
        f"a rotation of {NODES} simulated nodes, as a whole command, worst of {TIMES}", "s", max(took[1:]),
        "", None, _GOAL, f"p50 {p50(took[1:]):.2f}; {spread(took[1:])}; the first of all {took[0]:.2f}",
    )  # fmt: skip


class _Nodes(threading.Thread):
    """They have each new document in force after a moment, and say so."""

    def __init__(self, agent: ConsulAgent) -> None:
        super().__init__(daemon=True)
        self._agent = agent
        self._keys = Keys(FLEET)
        self._over = threading.Event()
        self._write(0)

    def _write(self, num: int) -> None:
        write_all(self._agent, self._keys, num, spread=WAKE if num else 0.0, document=_document)

    def run(self) -> None:
        """Look for documents until `stop`."""
        known = 0
        while not self._over.wait(_LOOK):
            raw = self._agent.kv_get(self._keys.head(TICKET_EVENT))
            newest = parse_head(raw).newest if raw else 0
            if newest > known:
                known = newest
                time.sleep(_RELOAD)
                self._write(newest)

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join()


def _document(node: int, num: int) -> Acknowledgement:
    """What a node says that has this document in force; 0: none yet."""
    name = Name(live=num, tried=Tried(num, "applied")) if num else Name()
    now = time.time()
    report = {"ring": [{"key": "5f5f5f5f", "since": int(now), "promoted": int(now)}], "session_timeout": 300}
    keys = HandlerReport((TICKET_EVENT,), f"{num:032x}", "applied", now, report=report)
    reload = HandlerReport((), None, "applied", now)
    handlers = {"ticket-keys": keys, "nginx-reload": reload}
    options = dict.fromkeys(handlers, "0123456789abcdef")
    return acknowledgement(node, num or None, names={TICKET_EVENT: name}, handlers=handlers, options=options)


def _host(directory: Path, agent: ConsulAgent) -> AgentdProcess:
    """A host from which keys are rotated; no daemon runs there."""
    ops, fleet = new_secret_key(), new_fleet_key()
    write_key(directory / "keys" / "ops.key", ops)
    write_key(directory / "keys" / "fleet.key", fleet)
    configuration = directory / "agentd.yaml"
    config = {
        "consul": {"address": f"{agent.address}:{agent.ports['http']}"},
        "nginx": None,
        "tree": {"path": str(directory / "tree")},
        "state": str(directory / "state"),
        "fleet": {"name": FLEET},
        "trust": {
            "publishers": {"ops": {"key": ops.public.text, "may": [TICKET_EVENT]}},
            "require": "signed",
            "seal": [TICKET_EVENT],
            "fleet_keys": [str(directory / "keys" / "fleet.key")],
            "signing_key": str(directory / "keys" / "ops.key"),
        },
        "handlers": ticket_keys({"event": TICKET_EVENT, "keep": "latest"}, keep=KEEP),
    }
    configuration.write_text(yaml.safe_dump(config))
    return AgentdProcess(configuration, directory / "agentd.log", ("127.0.0.1", 1))

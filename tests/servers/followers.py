"""Nodes of a fleet that follow its log: real daemons without nginx on one Consul agent; and a publisher."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from agentd.fleet.envelope import Draft
from agentd.fleet.head import Keep
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.log import Log
from agentd.trust.keyring import Signer
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

_SERVERS = Path(__file__).parent
_TALLY = "tests.integration.tally:Tally"


class FollowingNode:
    """One node: a daemon whose handlers are fed from the log.

    Args:
        directory: the node's own.
        name: in the fleet.
        fleet: the fleet's name.
        consul: the agent, which nodes may share.
        handlers: the `handlers:` section; by default `tally`, which adds each payload of `NAME` to a file.
        event: the name of the default handler's event.
        keep: how it is kept.
        settings: more of agentd's configuration, merged at the top level.
        clock_off: seconds by which the node's clock is ahead, or behind if negative; None: right, for good.
    """

    def __init__(  # noqa: PLR0913 (the choices of a test; all but two have a default)
        self,
        directory: Path,
        name: str,
        *,
        fleet: str,
        consul: ConsulAgent,
        handlers: Mapping[str, Any] | None = None,
        event: str = "tally",
        keep: Keep = "all",
        settings: Mapping[str, Any] | None = None,
        clock_off: float | None = None,
    ) -> None:
        self.name = name
        self.directory = directory
        directory.mkdir(parents=True)
        port = free_port()
        self.config: dict[str, Any] = {
            "consul": {"address": f"{consul.address}:{consul.ports['http']}"},
            "nginx": None,
            "tree": {"path": str(directory / "tree")},
            "state": str(directory / "state"),
            "status": {"address": f"127.0.0.1:{port}"},
            "fleet": {"name": fleet, "node": name, "service": False},
            "handlers": dict(handlers or {"tally": {"use": _TALLY, "on": [{"event": event, "keep": keep}]}}),
        } | dict(settings or {})
        self.configuration = directory / "agentd.yaml"
        self.configure()
        self._clock = directory / "clock"
        self._status = ("127.0.0.1", port)
        environment = {}
        if clock_off is not None:
            self.set_clock(clock_off)
            environment = _customized("clock") | {"AGENTD_CLOCK_OFF": str(self._clock)}
        self.agentd = self._daemon(environment)

    def _daemon(self, environment: Mapping[str, str]) -> AgentdProcess:
        log = self.directory / "agentd.log"
        return AgentdProcess(self.configuration, log, self._status, environment=environment)

    def install(self, *, newer: bool = False, older: bool = False) -> None:
        """Stop it; the next start is of another release (see `tests/servers/release`), or of this one."""
        self.stop()
        release = "newer" if newer else "older" if older else ""
        environment = _customized("release") | {"AGENTD_RELEASE": release} if release else {}
        self.agentd = self._daemon(environment)

    def set_clock(self, off: float) -> None:
        """Set its clock, ahead by so many seconds, of a node that was made with `clock_off`."""
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(str(off))
        fresh.rename(self._clock)

    def configure(self) -> None:
        """Write the configuration."""
        self.configuration.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def start(self) -> FollowingNode:
        """Start the daemon."""
        self.agentd.start()
        return self

    def stop(self) -> None:
        """End it, if it runs."""
        if self.agentd.process.running:
            self.agentd.stop()

    def tally(self) -> list[str]:
        """The payloads that were applied, in order."""
        path = self.directory / "tree" / "current" / "tally" / "tally.txt"
        return path.read_text().split() if path.exists() else []

    def await_tally(self, *payloads: str) -> None:
        """Wait until exactly these were applied, in this order."""
        wait_until(lambda: self.tally() == list(payloads), f"{payloads} on {self.name}")

    def await_outcomes(self, handler: str, outcome: str, count: int) -> None:
        """Wait until so many changes of a handler have ended, all of them like this.

        What they did is there a moment before the journal says so.
        """
        wait_until(
            lambda: [row["outcome"] for row in self.history(handler)] == [outcome] * count,
            f"{count} changes of {handler} on {self.name} to end as {outcome}",
        )

    def lose_journal(self) -> None:
        """Delete the journal, and whatever else of the log the node holds outside the tree."""
        for pattern in ("journal.db*", "fleet.db*"):
            for path in (self.directory / "state").glob(pattern):
                path.unlink()

    def history(self, handler: str) -> list[dict[str, Any]]:
        """The journal's rows of a handler, oldest first."""
        path = self.directory / "state" / "journal.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as journal:
            journal.row_factory = sqlite3.Row
            rows = journal.execute("SELECT * FROM changes WHERE handler = ? ORDER BY seq", (handler,))
            return [dict(row) for row in rows]


def _customized(name: str) -> dict[str, str]:
    """The environment of a Python that is customized as that directory says."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (_SERVERS / name, _SERVERS.parents[1])))}


@contextmanager
def open_log(consul: ConsulAgent, fleet: str, signer: Signer | None = None) -> Iterator[Log]:
    """The log of a fleet, as a publisher sees it, who signs if there is a signer."""
    options = ConsulOptions(address=f"{consul.address}:{consul.ports['http']}")
    with closing(ConsulClient(options)) as client:
        yield Log(ConsulKV(client), Keys(fleet), signer=signer)


def publish(
    consul: ConsulAgent,
    fleet: str,
    name: str,
    *payloads: str,
    keep: Keep = "all",
    signer: Signer | None = None,
    **more: Any,  # noqa: ANN401 (fields of a draft)
) -> None:
    """Append messages, one after the other."""
    with open_log(consul, fleet, signer) as log:
        for payload in payloads:
            fields: dict[str, Any] = {"issued": time.time(), "publisher": "test"} | more
            draft = Draft(payload.encode(), **fields)
            log.publish(name, draft, keep=keep)

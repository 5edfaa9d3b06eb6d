"""A real `agentd run`: started on a configuration file, waited for, stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import urllib3

from tests.servers.process import ServerProcess
from tests.servers.waiting import PATIENCE, wait_until

_PROGRAM = str(Path(sys.executable).with_name("agentd"))
# The log must be the machine's, whatever terminal the tests run in, and no token of the person's may leak in.
_UNSET = dict.fromkeys(("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_NAMESPACE", "NOTIFY_SOCKET"))
# Handlers that tests bring along are named as tests.package.module:Class.
# MALLOC_ARENA_MAX is as systemd/agentd.service sets it.
_SET = {"PYTHONPATH": str(Path(__file__).parents[2]), "MALLOC_ARENA_MAX": "1"}
WAIT: Final = ("--wait", "100s")
"""For commands that leave their work to the daemon, which may be slow on a busy machine."""


class AgentdProcess:
    """One daemon.

    Args:
        configuration: the YAML file.
        log: where its standard error goes, appended over restarts.
        status: host and port of its status server, as the configuration has it.
        environment: variables for this daemon only.
    """

    def __init__(
        self,
        configuration: Path,
        log: Path,
        status: tuple[str, int],
        *,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self.configuration = configuration
        self.log = log
        self._status = status
        self._set: dict[str, str | None] = {**_SET, **(environment or {})}
        argv = [_PROGRAM, "run", "--config", str(configuration)]
        self.process = ServerProcess(argv, log, environment=_UNSET | self._set)

    def start(self) -> AgentdProcess:
        """Start the daemon and wait until /readyz answers 200."""
        self.process.start(lambda: self.get("/readyz")[0] == 200)
        return self

    def stop(self) -> int | None:
        """End it with SIGTERM, as systemd does; return the exit status."""
        return self.process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is."""
        self.process.kill()

    def reload(self) -> None:
        """Have it read its configuration again (SIGHUP)."""
        self.process.send(signal.SIGHUP)

    def get(self, path: str) -> tuple[int, str]:
        """GET from the status server; return status and body.

        Raises:
            ConnectionError: it does not answer.
        """
        host, port = self._status
        try:
            with urllib3.HTTPConnectionPool(host, port, timeout=30, retries=False) as pool:
                answer = pool.request("GET", path)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"no answer from {host}:{port}: {error}") from error
        return answer.status, answer.data.decode()

    def await_listening(self) -> None:
        """Wait until it has seen Consul's ring of events, so that the next one is new to it.

        What is in the ring at its very first look may be weeks old, and is relayed to no other node.
        """
        wait_until(self._listens, f"{self.configuration} to listen for events")

    def _listens(self) -> bool:
        queries = json.loads(self.get("/status")[1])["queries"]
        return any(one["query"] == "event" and one["answers"] for one in queries)

    def log_lines(self) -> list[str]:
        """Return what it logged so far, over all its starts."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another agentd command on the same configuration, e.g. `command("history", "--json")`."""
        return subprocess.run(
            [_PROGRAM, name, "--config", str(self.configuration), *arguments],
            env=os.environ | {key: value for key, value in self._set.items() if value is not None},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )

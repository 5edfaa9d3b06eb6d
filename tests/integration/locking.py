"""Programs under `agentd lock` and `consul lock`, for the tests of both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from tests.servers.consul import ConsulAgent
from tests.servers.waiting import PATIENCE, wait_until

_AGENTD = str(Path(sys.executable).with_name("agentd"))


class Program:
    """A running program in a session of its own, with its standard error in a file."""

    def __init__(self, argv: list[str], directory: Path, environment: dict[str, str], name: str) -> None:
        self._error = directory / name
        with self._error.open("wb") as error:
            self._process = subprocess.Popen(
                argv,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=error,
                stderr=error,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self._process.send_signal(number)

    def finish(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Wait for its end; return its exit status and what it said."""
        status = self._process.wait(seconds)
        return status, self._error.read_text()

    def close(self) -> None:
        """Kill it, and what a `consul lock` leaves behind when it is killed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


class Locksmith:
    """Starts programs that want a lock of one agent.

    Args:
        agent: whose.
        directory: for the configuration and what the commands write.
        prefix: of the lock.
    """

    def __init__(self, agent: ConsulAgent, directory: Path, prefix: str) -> None:
        self.agent = agent
        self.directory = directory
        self.prefix = prefix.rstrip("/")
        self._configuration = directory / "agentd.yaml"
        content = {
            "consul": {"address": agent.url},
            "handlers": {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}},
        }
        self._configuration.write_text(yaml.safe_dump(content))
        self._started: list[Program] = []

    def agentd(self, *options: str, script: str) -> Program:
        """`agentd lock PREFIX OPTIONS -- sh -c SCRIPT`."""
        given = ["--config", str(self._configuration), *options, self.prefix]
        return self._start([_AGENTD, "lock", *given, "--", "sh", "-c", script])

    def consul(self, *options: str, script: str) -> Program:
        """`consul lock OPTIONS PREFIX SCRIPT`, which runs it in a shell."""
        return self._start(["consul", "lock", *options, self.prefix, script])

    def _start(self, argv: list[str]) -> Program:
        environment = {**os.environ, **self.agent.environment, "SHELL": "/bin/sh"}
        program = Program(argv, self.directory, environment, f"stderr{len(self._started)}")
        self._started.append(program)
        return program

    def wait_for(self, name: str) -> str:
        """The content of a file in the directory, once a command has written it."""
        file = self.directory / name
        return wait_until(lambda: file.read_text().strip(), f"{name} to be written")

    def holder(self) -> str:
        """The session that has the lock for one, or ""."""
        found = self.agent.get(f"/v1/kv/{self.prefix}/?recurse") if self.keys() else []
        return next((str(one.get("Session", "")) for one in found if one["Key"].endswith("/.lock")), "")

    def contenders(self) -> int:
        """How many sessions of `agentd lock` want it, or have it."""
        sessions = self.agent.get("/v1/session/list")
        return sum(one["Name"] == f"agentd lock {self.prefix}" for one in sessions)

    def keys(self) -> list[str]:
        """All keys below the prefix."""
        wanted = f"{self.prefix}/"
        return [key for key in self.agent.get("/v1/kv/?keys&prefix=") if key.startswith(wanted)]

    def close(self) -> None:
        """Kill what still runs."""
        for program in self._started:
            program.close()


@contextmanager
def locksmith(agent: ConsulAgent, directory: Path, prefix: str) -> Iterator[Locksmith]:
    """One whose programs end with the block."""
    made = Locksmith(agent, directory, prefix)
    try:
        yield made
    finally:
        made.close()


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

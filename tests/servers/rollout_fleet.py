"""A fleet for rollouts: five real daemons without nginx, whose handler refuses what the test wants."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest

from agentd.cli import main
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.freeze import NAME as FREEZE
from agentd.fleet.freeze import render_freeze
from agentd.fleet.keys import Keys
from tests.integration.picky import PATH
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NAME: Final = "site"
SIZE: Final = 5
SWIFT: Final = ("--pause", "0", "--timeout", "100s")
"""Options of a rollout whose nodes may be slow on a busy machine."""


class RolloutFleet:
    """Five daemons on one Consul agent, and the commands of a host that runs no agentd.

    Args:
        consul: the agent.
        directory: of the fleet, with a short path.
        settings: more of each daemon's configuration, merged at the top level.

    Attributes:
        capsys: of the test that runs.
        running: commands that the test has begun; end with it.
    """

    capsys: pytest.CaptureFixture[str]

    @classmethod
    @contextmanager
    def started(cls, consul: ConsulAgent) -> Iterator[Self]:
        """A fleet all of whose daemons run, in a directory that goes with it."""
        with tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as directory:
            made = cls(consul, Path(directory))
            try:
                made.start()
                yield made
            finally:
                made.close()

    @contextmanager
    def ready(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Self]:
        """For one test: all have the payload `old` in force, and nothing else is in the log."""
        monkeypatch.delenv("AGENTD_CONFIG", raising=False)
        self.capsys = capsys
        self.reset()
        with self.running:
            yield self

    def __init__(
        self, consul: ConsulAgent, directory: Path, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.name = f"rollouts-{free_port()}"
        self.consul = consul
        self.directory = directory
        self.nodes: list[FollowingNode] = []
        self._settings = settings
        self.running = ExitStack()
        self._stack = ExitStack()
        self.address: tuple[str, ...] = ("--fleet", self.name, "--http-addr", consul.url)

    def add(self) -> FollowingNode:
        """Make one more node."""
        number = len(self.nodes) + 1
        place = self.directory / f"n{number}"
        picky = {"use": "tests.integration.picky:Picky", "options": {"unless": str(place / "refuses")}}
        handlers = {"picky": picky | {"on": [{"event": NAME, "keep": "latest"}]}}
        node = FollowingNode(
            place,
            f"node{number}",
            fleet=self.name,
            consul=self.consul,
            handlers=handlers,
            settings=self._settings,
        )
        self._stack.callback(node.stop)
        self.nodes.append(node)
        return node

    def reset(self) -> None:
        """Have the payload `old` in force everywhere, and nothing else in the log."""
        for node in self.nodes[SIZE:]:
            node.stop()
            self.run("fleet", "forget", node.name)
        del self.nodes[SIZE:]
        for node in self.nodes:
            self.refuse(node.name, refuses=False)
            if not node.agentd.process.running:
                node.start()
        self.run("log", "forget", NAME, "--yes")
        words = ("--keep", "latest", "--wait", "--timeout", "100s")
        status, out, err = self.run("publish", NAME, *self.payload("old"), *words)
        assert status == 0, out + err

    def payload(self, text: str) -> tuple[str, ...]:
        """How a payload is given."""
        return (text,)

    def start(self) -> None:
        """Make the nodes, and start them."""
        for _ in range(SIZE):
            self.add()
        with ThreadPoolExecutor(SIZE) as threads:
            list(threads.map(FollowingNode.start, self.nodes))
        wait_until(lambda: len(self.known()) == SIZE, "five acknowledgements")

    def close(self) -> None:
        """Leave nothing behind."""
        self._stack.close()
        self.consul.kv_delete(f"agentd/{self.name}/", recurse=True)

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a command; its status, and what it printed."""
        self.capsys.readouterr()
        status = main([words[0], *words[1:], *self.address])
        return status, *self.capsys.readouterr()

    def json(self, *words: str, status: int = 0) -> Any:  # noqa: ANN401 (any JSON)
        """Run a command with --json; the document."""
        found, out, err = self.run(*words, "--json")
        assert found == status, out + err
        return json.loads(out)

    def publish(self, payload: str, *words: str) -> tuple[int, str, str]:
        """Publish in steps, without pauses."""
        return self.run("publish", NAME, payload, *SWIFT, *words)

    def begin(self, payload: str, *words: str) -> subprocess.Popen[str]:
        """Publish in steps in another process, which the test ends."""
        argv = [sys.executable, "-m", "agentd", "publish", NAME, payload, *SWIFT, *words, *self.address]
        made = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.enter_context(made)
        self.running.callback(made.kill)
        return made

    def refuse(self, name: str, *, refuses: bool = True) -> None:
        """Have a node refuse everything from now on, or no more."""
        path = self.directory / f"n{name[-1]}" / "refuses"
        if refuses:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def freeze(self, *, frozen: bool) -> None:
        """Freeze the fleet, or thaw it."""
        body = render_freeze("no changes" if frozen else "", frozen=frozen)
        with open_log(self.consul, self.name) as log:
            log.publish(FREEZE, Draft(body, time.time(), "test", kind="freeze"), keep="latest")

    def known(self) -> list[str]:
        """The nodes that acknowledge the name."""
        found: list[str] = []
        for node in self.nodes:
            raw = self.consul.kv_get(Keys(self.name).node(node.name))
            found += [node.name] if raw and NAME in json.loads(raw)["names"] else []
        return found

    def messages(self) -> list[Envelope]:
        """All that is in the log."""
        with open_log(self.consul, self.name) as log:
            return [one for reading in log.after(NAME, 0, log.head(NAME)) for one in reading.messages]

    def seen(self) -> dict[str, Any]:
        """What status tells a program of the rollout that is open."""
        status, out, err = self.run("rollout", "status", "--json")
        assert status in (0, 1), err
        found: dict[str, Any] = json.loads(out)["rollouts"][0]
        return found

    def payloads(self) -> list[str]:
        """What is in force on each node."""
        return [payload_of(node) for node in self.nodes]

    def await_payloads(self, *payloads: str) -> None:
        """Wait until these are in force, node by node."""
        wait_until(lambda: self.payloads() == list(payloads), f"{payloads} to be in force")

    def await_steps(self, count: int) -> Envelope:
        """Wait until so many messages of a rollout are in the log; the last one."""

        def admitted() -> list[Envelope]:
            found = [one for one in self.messages() if one.rollout]
            return found if len(found) >= count else []

        return wait_until(admitted, f"{count} messages of a rollout")[-1]


def payload_of(node: FollowingNode) -> str:
    """What is in force on a node; "" if nothing is."""
    path = node.directory / "tree" / "current" / PATH
    return path.read_text() if path.exists() else ""

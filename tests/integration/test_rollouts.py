"""`agentd publish --canary` and `agentd rollout` on five real daemons."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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

NAME = "site"
SIZE = 5
_SWIFT = ("--pause", "0", "--timeout", "100s")


class Fleet:
    """Five daemons on one Consul agent, and the commands of a host that runs no agentd."""

    capsys: pytest.CaptureFixture[str]

    def __init__(self, consul: ConsulAgent, directory: Path) -> None:
        self.name = f"rollouts-{free_port()}"
        self.consul = consul
        self.directory = directory
        self.nodes: list[FollowingNode] = []
        self.running = ExitStack()
        self._stack = ExitStack()
        self.address = ("--fleet", self.name, "--http-addr", consul.url)

    def add(self) -> FollowingNode:
        """Make one more node."""
        number = len(self.nodes) + 1
        place = self.directory / f"n{number}"
        picky = {"use": "tests.integration.picky:Picky", "options": {"unless": str(place / "refuses")}}
        handlers = {"picky": picky | {"on": [{"event": NAME, "keep": "latest"}]}}
        node = FollowingNode(place, f"node{number}", fleet=self.name, consul=self.consul, handlers=handlers)
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
        words = ("old", "--keep", "latest", "--wait", "--timeout", "100s")
        status, _, err = self.run("publish", NAME, *words)
        assert status == 0, err

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
        return self.run("publish", NAME, payload, *_SWIFT, *words)

    def begin(self, payload: str, *words: str) -> subprocess.Popen[str]:
        """Publish in steps in another process, which the test ends."""
        argv = [sys.executable, "-m", "agentd", "publish", NAME, payload, *_SWIFT, *words, *self.address]
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


@pytest.fixture(scope="module")
def daemons(consul: ConsulAgent) -> Iterator[Fleet]:
    """All of them run."""
    with tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as directory:
        made = Fleet(consul, Path(directory))
        try:
            for _ in range(SIZE):
                made.add()
            with ThreadPoolExecutor(SIZE) as threads:
                list(threads.map(FollowingNode.start, made.nodes))
            wait_until(lambda: len(made.known()) == SIZE, "five acknowledgements")
            yield made
        finally:
            made.close()


@pytest.fixture
def fleet(
    daemons: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    """All have the payload `old` in force, and nothing else is in the log."""
    monkeypatch.delenv("AGENTD_CONFIG", raising=False)
    daemons.capsys = capsys
    daemons.reset()
    with daemons.running:
        yield daemons


def test_each_step_follows_the_one_before(fleet: Fleet) -> None:
    """A canary, then a half, then all; each is confirmed by whom it admits."""
    told = fleet.json("publish", NAME, "new", *_SWIFT, "--canary", "node2", "--steps", "50%,100%")
    assert (told["outcome"], told["resumed"], told["others"]) == ("released", False, [])
    steps = [(one["step"], one["nodes"], one["confirmed"]) for one in told["steps"]]
    assert steps == [("canary", 1, 1), ("50%", 3, 3), ("100%", 5, 5), ("release", 5, 5)]
    assert fleet.payloads() == ["new"] * SIZE


def test_a_canary_that_refuses_stops_it_and_abort_brings_back_the_old_payload(fleet: Fleet) -> None:
    """Nobody else gets it; status names the node; the same command goes on, once the node takes it."""
    fleet.refuse("node2")
    status, out, err = fleet.publish("new", "--canary", "node2")
    assert status == 1
    assert "canary: 1 of 5 nodes admitted (node2)" in err
    assert "node2: refused: not here" in err
    assert "stopped at canary: in force on 0 of 1 nodes" in out
    assert "agentd rollout abort site" in out
    assert fleet.payloads() == ["old"] * SIZE
    [seen] = fleet.json("rollout", "status", status=1)["rollouts"]
    assert (seen["name"], seen["admitted"], seen["confirmed"]) == (NAME, ["node2"], [])
    assert seen["failed"] == [{"node": "node2", "reason": "refused: not here"}]
    fleet.refuse("node2", refuses=False)
    assert fleet.run("rollout", "abort", NAME, "--wait", "--timeout", "100s")[0] == 0
    assert fleet.payloads() == ["old"] * SIZE
    assert fleet.json("rollout", "status")["rollouts"] == []


def test_the_running_command_notices_an_abort_from_elsewhere(fleet: Fleet) -> None:
    """In the pause after the canary; it ends with 1, and the canary has the old payload again."""
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    told = fleet.json("rollout", "abort", NAME, "--wait", "--timeout", "100s")
    out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert f"aborted it: message {told['num']} brings back what all nodes had" in out
    assert fleet.payloads() == ["old"] * SIZE


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_the_same_command_goes_on_after_it_was_killed(fleet: Fleet, step: int) -> None:
    """After any step, or the release; another payload is refused while it is open."""
    words = ("--canary", "node3", "--steps", "50%,100%")
    running = fleet.begin("new", *words)
    fleet.await_steps(step)
    running.send_signal(signal.SIGKILL)
    running.wait()
    if fleet.messages()[-1].kind == "admit":
        status, _, err = fleet.publish("other", *words)
        assert status == 1
        assert "a rollout of another payload is open" in err
        status, _, err = fleet.run("publish", NAME, "other")
        assert status == 1
        assert "a rollout of site is open" in err
    told = fleet.json("publish", NAME, "new", *_SWIFT, *words)
    assert (told["outcome"], told["resumed"]) == ("released", True)
    assert fleet.payloads() == ["new"] * SIZE
    assert len({one.rollout for one in fleet.messages() if one.rollout}) == 1


def test_two_at_once_come_to_the_same_end(fleet: Fleet) -> None:
    """Each step is written once, whoever of them does it."""
    both = [fleet.begin("new", "--canary", "2", "--steps", "50%,100%", "--json") for _ in range(2)]
    told = [json.loads(one.communicate(timeout=200)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert {one["outcome"] for one in told} == {"released"}
    assert fleet.payloads() == ["new"] * SIZE
    [first, second] = told
    assert first["rollout"] == second["rollout"]
    assert first["num"] == second["num"]


def test_some_failures_may_be_allowed(fleet: Fleet) -> None:
    """One of five; two are too many."""
    fleet.refuse("node4")
    told = fleet.json("publish", NAME, "new", *_SWIFT, "--canary", "node1,node4", "--max-failures", "1")
    assert told["outcome"] == "released"
    assert [one["node"] for one in told["others"]] == ["node4"]
    assert fleet.payloads() == ["new", "new", "new", "old", "new"]
    fleet.refuse("node5")
    status, out, _ = fleet.publish("newer", "--canary", "node4,node5", "--max-failures", "1")
    assert status == 1
    assert "2 nodes did not take it, and --max-failures allows for 1" in out


def test_a_stopped_node_is_named_and_blocks(fleet: Fleet) -> None:
    """Until it is back; the same command then goes on."""
    fleet.nodes[4].stop()
    status, out, _ = fleet.publish("new", "--canary", "node1,node5", "--timeout", "12s")
    assert status == 1
    assert "agentd is stopped" in out
    assert fleet.payloads() == ["new", "old", "old", "old", "old"]
    fleet.nodes[4].start()
    assert fleet.publish("new", "--canary", "node1,node5")[0] == 0
    assert fleet.payloads() == ["new"] * SIZE


def test_a_node_that_joins_is_admitted_or_not_like_any_other(fleet: Fleet) -> None:
    """One that the step does not admit takes what all nodes had; in the end all have the same."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "100%", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    fleet.add().start()
    fleet.await_payloads("old", "old", "new", "old", "old", "old")
    running.kill()
    running.wait()
    assert fleet.publish("new", "--canary", "node3", "--steps", "100%")[0] == 0
    assert fleet.payloads() == ["new"] * (SIZE + 1)


def test_nothing_is_admitted_while_the_fleet_is_frozen(fleet: Fleet) -> None:
    """It stops and says why; after the thaw it goes on."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "100%", "--pause", "5s", "--timeout", "4s")
    fleet.await_payloads("old", "old", "new", "old", "old")
    fleet.freeze(frozen=True)
    out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert "frozen by test: no changes" in out
    assert fleet.payloads() == ["old", "old", "new", "old", "old"]
    fleet.freeze(frozen=False)
    assert fleet.publish("new", "--canary", "node3")[0] == 0
    assert fleet.payloads() == ["new"] * SIZE


def test_without_an_earlier_payload_there_is_nothing_to_go_back_to(fleet: Fleet) -> None:
    """Abort says what to do instead, and that works."""
    assert fleet.run("log", "forget", NAME, "--yes")[0] == 0
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m", "--keep", "latest")
    fleet.await_payloads("old", "old", "new", "old", "old")
    running.kill()
    running.wait()
    status, _, err = fleet.run("rollout", "abort", NAME)
    assert status == 1
    assert "agentd log forget site --yes" in err
    assert fleet.run("log", "forget", NAME, "--yes")[0] == 0
    assert fleet.run("publish", NAME, "right", "--keep", "latest", "--wait", "--timeout", "100s")[0] == 0
    assert fleet.payloads() == ["right"] * SIZE

"""What real daemons take of a rollout while Consul loses it, and while they are away, killed or new.

The messages are written as `agentd publish --canary` writes them; that command has tests of its own.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import RolloutOpen
from agentd.fleet.envelope import Draft, Kind
from agentd.fleet.head import Head
from agentd.fleet.rollout import ALL, Admission
from tests.integration.test_fleet_relay import directly
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log
from tests.servers.waiting import wait_until

FLEET = "prod"
NAME = "site"
ROLLOUT = "r1"


class Nodes:
    """Two daemons on one Consul, `canary` and `other`; each adds up payloads, and runs a program for each."""

    def __init__(self, consul: ConsulAgent, directory: Path, stack: ExitStack) -> None:
        self.consul = consul
        self._directory = directory
        self._stack = stack
        self.canary = self.add("canary")
        self.other = self.add("other")

    def add(self, name: str) -> FollowingNode:
        """Start one more."""
        directory = self._directory / name
        shell = f'read -r given; echo "$given" >> {directory}/done'
        on = [{"event": NAME, "keep": "latest"}]
        handlers = {
            "tally": {"use": "tests.integration.tally:Tally", "on": on},
            "run": {"use": "command", "on": on, "options": {"shell": shell}},
        }
        node = FollowingNode(directory, name, fleet=FLEET, consul=self.consul, handlers=handlers)
        self._stack.callback(node.stop)
        return node.start()

    def publish(self, payload: str, kind: Kind = "payload", **more: Any) -> int:  # noqa: ANN401 (of a draft)
        """Append one message; its number."""
        if kind != "payload":
            more["rollout"] = ROLLOUT
        with open_log(self.consul, FLEET) as log:
            draft = Draft(payload.encode(), time.time(), "test", kind=kind, **more)
            return log.publish(NAME, draft, keep="latest")

    def publish_elsewhere(self) -> None:
        """Publish under another name; else nodes may notice a restored snapshot only after a minute."""
        with open_log(self.consul, FLEET) as log:
            log.publish("elsewhere", Draft(b"", time.time(), "test"), keep="latest")

    def admit(self, payload: str, *nodes: str, below: int = 0) -> int:
        """Open or widen the rollout."""
        return self.publish(payload, "admit", admission=Admission(below, nodes))

    def head(self) -> Head | None:
        """Of the name."""
        with open_log(self.consul, FLEET) as log:
            return log.head(NAME)

    def await_head(self, head: Head | None) -> None:
        """Wait until the log is as it was."""
        assert head
        wait_until(
            lambda: (now := self.head()) and (now.recent, now.released) == (head.recent, head.released),
            "the log to be written back",
        )


def ran(node: FollowingNode) -> list[str]:
    """The payloads for which the program ran on a node, in order."""
    done = node.directory / "done"
    lines = done.read_text().splitlines() if done.exists() else []
    return [base64.b64decode(json.loads(line)[0]["Payload"]).decode() for line in lines]


def await_runs(node: FollowingNode, *payloads: str) -> None:
    """Wait until the program has run for these."""
    wait_until(lambda: ran(node) == list(payloads), f"{payloads} to run on {node.name}")


@pytest.fixture
def nodes(new_consul: Callable[..., ConsulAgent], directory: Path) -> Iterator[Nodes]:
    """Both have `old`."""
    with ExitStack() as stack:
        made = Nodes(new_consul(), directory, stack)
        made.publish("old")
        for node in (made.canary, made.other):
            node.await_tally("old")
            await_runs(node, "old")
        yield made


@pytest.mark.parametrize("lost", ["everything", "what came after a snapshot"])
def test_a_rollout_that_consul_loses_is_open_again(nodes: Nodes, lost: str) -> None:
    """Nodes write it back; nobody takes anything twice, a node that joins takes the right one."""
    before = directly(nodes.consul, "GET")
    nodes.admit("new", "canary")
    nodes.canary.await_tally("old", "new")
    nodes.admit("new", "canary", "late")
    nodes.canary.await_tally("old", "new", "new")
    head = nodes.head()

    if lost == "everything":
        nodes.consul.kv_delete(f"agentd/{FLEET}/", recurse=True)
    else:
        directly(nodes.consul, "PUT", before)
        nodes.publish_elsewhere()
    nodes.await_head(head)

    with pytest.raises(RolloutOpen):
        nodes.publish("another")
    nodes.add("late").await_tally("new")
    nodes.add("later").await_tally("old")
    nodes.publish("new", "release")
    nodes.other.await_tally("old", "new")
    await_runs(nodes.other, "old", "new")
    await_runs(nodes.canary, "old", "new")


def test_a_node_that_was_away_takes_the_newest_that_is_for_it(nodes: Nodes) -> None:
    """Once, however many steps it has missed; what the other one has is none of its business."""
    nodes.canary.stop()
    nodes.other.stop()
    nodes.admit("first", "canary")
    nodes.admit("first", "canary", "third")
    nodes.admit("first", "canary", "third", "fourth")
    nodes.canary.start()
    nodes.other.start()
    nodes.canary.await_tally("old", "first")
    await_runs(nodes.canary, "old", "first")
    nodes.publish("last", "release")
    for node, tally in ((nodes.canary, ("old", "first", "last")), (nodes.other, ("old", "last"))):
        node.await_tally(*tally)
    await_runs(nodes.other, "old", "last")


def test_an_abort_brings_back_the_old_one_where_the_new_one_was(nodes: Nodes) -> None:
    """A program runs for it only there; all count as having it."""
    released = nodes.publish("older")
    nodes.other.await_tally("old", "older")
    await_runs(nodes.other, "old", "older")
    await_runs(nodes.canary, "old", "older")
    nodes.admit("new", "canary")
    await_runs(nodes.canary, "old", "older", "new")
    num = nodes.publish("older", "abort", restores=released)
    await_runs(nodes.canary, "old", "older", "new", "older")

    def live() -> list[int]:
        raw = (nodes.consul.kv_get(f"agentd/{FLEET}/nodes/{name}") for name in ("canary", "other"))
        return [json.loads(one)["names"][NAME].get("live") for one in raw if one]

    wait_until(lambda: live() == [num, num], "both to acknowledge it")
    assert ran(nodes.other) == ["old", "older"]


def test_a_node_that_loses_its_journal_in_mid_rollout_has_the_same_again(nodes: Nodes) -> None:
    """Killed, and without all that it remembers outside the tree; its program does not run again."""
    nodes.admit("new", "canary")
    for node in (nodes.canary, nodes.other):
        node.await_tally("old", *(["new"] if node is nodes.canary else []))
    await_runs(nodes.canary, "old", "new")
    nodes.canary.await_outcomes("run", "applied", 2)
    for node in (nodes.canary, nodes.other):
        node.agentd.kill()
        node.lose_journal()
        node.start()
    num = nodes.admit("new", "canary", below=ALL)
    nodes.other.await_tally("old", "new")
    await_runs(nodes.other, "old", "new")

    def live() -> Any:  # noqa: ANN401 (any JSON)
        raw = nodes.consul.kv_get(f"agentd/{FLEET}/nodes/canary")
        return raw and json.loads(raw)["names"][NAME].get("live")

    wait_until(lambda: live() == num, "the canary to have it in force")
    assert ran(nodes.canary) == ["old", "new"]

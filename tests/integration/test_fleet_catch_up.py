"""A node that was down for hundreds of messages of the blacklist: all of them, once, in few commits."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[[str], FollowingNode]
MESSAGES, LOADS, KILLS = 300, 250, 6
RANGES = Path("tree/current/blacklist")


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet that have a blacklist; each is stopped at the end."""
    handlers = {
        "blacklist": {
            "use": "ip_blacklist",
            "on": [{"event": "block", "keep": "all"}],
            "options": {"lists": {"feed": {"shrinkage": 0}}},
        }
    }
    settings = {"sources": {"allow": [f"file:{directory}/"]}}
    with ExitStack() as stack:

        def make(name: str) -> FollowingNode:
            node = FollowingNode(
                directory / name, name, fleet=fleet, consul=consul, handlers=handlers, settings=settings
            )
            stack.callback(node.stop)
            return node

        yield make


def ended(node: FollowingNode) -> list[tuple[str, str, str]]:
    """The ID, outcome and reason of each message that has ended, in their order."""
    rows = node.history("blacklist")
    return [
        (row["id"], row["outcome"], row["reason"])
        for row in rows
        if row["kind"] == "event" and row["outcome"]
    ]


def await_ended(node: FollowingNode, count: int) -> None:
    """Wait until so many messages have."""
    wait_until(lambda: len(ended(node)) >= count, f"{count} outcomes on {node.name}")


def generation(node: FollowingNode) -> int:
    """The number of the current one."""
    return int((node.directory / "tree" / "current").readlink().name)


def blocked(node: FollowingNode) -> dict[str, str]:
    """What nginx reads of it."""
    return {one: (node.directory / RANGES / one).read_text() for one in ("ipv4.ranges", "ipv6.cidrs")}


def lines() -> list[str]:
    """Adds and removes of both families, some of them refused."""
    chance = random.Random(7)
    made = []
    for number in range(MESSAGES):
        address = f"11.{number >> 4}.{number & 15}.0/{chance.choice((24, 25, 32))}"
        earlier = f"11.{chance.randrange(number + 1) >> 4}.{number & 15}.0/28"
        made.append(
            chance.choice(
                (
                    f"add {address}",
                    f"add {address}",
                    f"add 2001:db8:{number:x}::/48",
                    f"remove {earlier}",
                    "add 127.0.0.1",
                )
            )
        )
    return made


def test_a_node_that_was_down_comes_to_what_the_others_have(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """The same is blocked, each message ended in the same way, and nginx would have been reloaded seldom."""
    follows, was_down = new_node("follows").start(), new_node("down").start()
    publish(consul, fleet, "block", "add 198.51.100.1")
    for node in (follows, was_down):
        await_ended(node, 1)
    was_down.stop()
    before = generation(was_down)
    publish(consul, fleet, "block", *lines())
    await_ended(follows, MESSAGES + 1)
    was_down.start()
    await_ended(was_down, MESSAGES + 1)

    assert blocked(was_down) == blocked(follows)
    assert Counter(outcome == "refused" for _, outcome, _ in ended(was_down)) == Counter(
        outcome == "refused" for _, outcome, _ in ended(follows)
    )
    assert generation(was_down) - before < 10


def test_kill_9_while_it_catches_up_loses_nothing_and_repeats_nothing(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """Whatever of it was read, handled or rendered by then."""
    chance = random.Random(4)
    follows, was_down = new_node("follows").start(), new_node("down").start()
    publish(consul, fleet, "block", "add 198.51.100.1")
    await_ended(was_down, 1)
    was_down.stop()
    publish(consul, fleet, "block", *lines())
    for _ in range(KILLS):
        was_down.agentd.process.spawn()
        time.sleep(chance.uniform(0.4, 1.2))  # a kill comes at any moment
        was_down.agentd.kill()
    was_down.start()
    for node in (follows, was_down):
        await_ended(node, MESSAGES + 1)

    assert len({identity for identity, *_ in ended(was_down)}) == len(ended(was_down)) == MESSAGES + 1
    assert blocked(was_down) == blocked(follows)


def test_more_loads_than_may_download_at_once_leave_the_newest_list(
    consul: ConsulAgent, directory: Path, fleet: str, new_node: NewNode
) -> None:
    """None of them is refused for want of room, nor is what comes behind them held up."""
    node = new_node("node1").start()
    publish(consul, fleet, "block", "add 198.51.100.1")
    await_ended(node, 1)
    node.stop()
    loads = []
    for number in range(LOADS):
        source = directory / f"list{number}"
        source.write_text(f"203.0.113.{number}\n")
        loads.append(f"load feed file:{source} sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}")
    publish(consul, fleet, "block", *loads, "add 198.51.100.2")
    node.start()
    await_ended(node, LOADS + 2)

    assert not [one for one in ended(node) if one[1] not in ("applied", "unchanged")]
    newest = f"203.0.113.{LOADS - 1}-203.0.113.{LOADS - 1} 1;\n"
    assert (node.directory / RANGES / "lists" / "feed.ipv4").read_text() == newest
    assert blocked(node)["ipv4.ranges"] == "198.51.100.1-198.51.100.2 1;\n"


def test_a_node_that_joins_after_a_snapshot_that_was_refused_is_incomplete(
    consul: ConsulAgent, fleet: str, new_node: NewNode
) -> None:
    """Those that followed still have what it was to replace; the log has it no more."""
    follows = new_node("follows").start()
    publish(consul, fleet, "block", "add 198.51.100.1")
    publish(consul, fleet, "block", "replace\nnonsense", snapshot=True)
    publish(consul, fleet, "block", "add 198.51.100.2")
    await_ended(follows, 3)
    joins = new_node("joins").start()
    await_ended(joins, 2)

    def table() -> list[list[str]]:
        return [line.split() for line in follows.agentd.command("fleet").stdout.splitlines()]

    def incomplete() -> list[str]:
        return [words[-1] for words in table() if words[:1] == ["incomplete"]]

    assert wait_until(incomplete, "a node to be incomplete") == ["joins"]

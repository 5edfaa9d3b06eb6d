"""A node whose own clock is wrong, by minutes or by a year; and events that reach the log hours late."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import Draft
from agentd.fleet.pruning import LEAST
from agentd.fleet.writer import MOST_DRAFTS
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]
MINUTES = 600.0
HOURS = 7200.0
YEAR = 365 * 86400.0


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet: `new_node("n1", clock_off=600.0)`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, *, relay: bool = True, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            settings = {"fleet": {"name": fleet, "node": name, "service": False, "relay": relay}}
            settings |= options.pop("settings", {})
            where: dict[str, Any] = {"fleet": fleet, "consul": consul, "event": fleet} | options
            node = FollowingNode(directory / name, name, settings=settings, **where)
            stack.callback(node.stop)
            return node

        yield make


def tally(fleet: str) -> dict[str, Any]:
    """A handler that adds each payload to a file."""
    return {"use": "tests.integration.tally:Tally", "on": [{"event": fleet, "keep": "all"}]}


def blacklist(fleet: str) -> dict[str, Any]:
    """The handlers of a node that blocks addresses."""
    return {"blacklist": {"use": "ip_blacklist", "on": [{"event": fleet, "keep": "all"}]}}


def commanding(fleet: str, done: Path) -> dict[str, Any]:
    """The handlers of a node that runs a program for each message, which adds the payload to a file."""
    shell = f"jq -r '.[].Payload | @base64d' >> {done}"
    return {"run": {"use": "command", "on": [{"event": fleet, "keep": "all"}], "options": {"shell": shell}}}


def blocked(node: FollowingNode) -> list[str]:
    """The addresses that a node blocks."""
    found = json.loads(node.agentd.command("blacklist", "list", "--json").stdout)
    return sorted(str(one["entry"]) for one in found["entries"])


# ---------------------------------------------------------------- hours late


def test_an_event_that_reaches_the_log_hours_late_lasts_no_longer(
    new_consul: Callable[..., ConsulAgent], directory: Path, fleet: str, new_node: NewNode
) -> None:
    """A time to live counts from when it was heard, also on a node that followed the log all the time."""
    strict = new_consul(acl=True)
    rights = {"event_prefix": "write", "agent_prefix": "read", "node_prefix": "read"}
    secret = directory / "token"
    secret.write_text(
        strict.make_token(" ".join(f'{one} "" {{policy="{may}"}}' for one, may in rights.items()))
    )
    manager = directory / "manager"
    manager.write_text(str(strict.token))
    heard, follows = (
        new_node(
            name,
            relay=relay,
            handlers=blacklist(fleet),
            settings={"consul": {"address": strict.url, "token_file": str(file)}},
            clock_off=off,
        )
        for name, relay, file, off in (("n1", True, secret, -HOURS), ("n2", False, manager, 0.0))
    )
    for node in (heard, follows):
        node.start()
        node.agentd.await_listening()
    strict.fire(fleet, b"add 198.51.100.7 10m")
    wait_until(lambda: blocked(heard) == ["198.51.100.7/32"], "the address on the node that heard of it")
    heard.stop()
    heard.set_clock(0.0)
    secret.write_text(str(strict.token))

    heard.start()

    for node in (heard, follows):
        wait_until(partial(_came, node, fleet), "the message")
        assert blocked(node) == []


def _came(node: FollowingNode, name: str) -> bool:
    return any(row["query"].endswith(name) and row["outcome"] for row in node.history("blacklist"))


# ---------------------------------------------------------------- a joiner

OFF = pytest.mark.parametrize("off", [-YEAR, -MINUTES, MINUTES, YEAR])


@OFF
def test_a_joiner_whose_clock_is_wrong_runs_what_comes_and_nothing_older(
    consul: ConsulAgent, directory: Path, fleet: str, new_node: NewNode, off: float
) -> None:
    """Whether a message is older than the joiner is not for its clock to say."""
    publish(consul, fleet, fleet, "old-1", "old-2")
    node = new_node("n1", handlers=commanding(fleet, directory / "done"), clock_off=off).start()
    node.await_outcomes("run", "expired", 2)

    publish(consul, fleet, fleet, "new")

    wait_until(lambda: ran(directory) == ["new"], "the program to run for the new message, and only for it")


@OFF
def test_a_publisher_whose_clock_is_wrong_makes_a_joiner_run_nothing_old(
    consul: ConsulAgent, directory: Path, fleet: str, new_node: NewNode, off: float
) -> None:
    """And what it publishes once the node is there runs, however old it says that it is."""
    publish(consul, fleet, fleet, "old", issued=time.time() + off)
    node = new_node("n1", handlers=commanding(fleet, directory / "done")).start()
    node.await_outcomes("run", "expired", 1)

    publish(consul, fleet, fleet, "new", issued=time.time() + off)

    wait_until(lambda: ran(directory) == ["new"], "the program to run for the new message, and only for it")


@OFF
def test_a_clock_that_is_set_right_later_makes_nothing_old(
    consul: ConsulAgent, directory: Path, fleet: str, new_node: NewNode, off: float
) -> None:
    """NTP came after agentd's first start; the node was down while a message was published."""
    publish(consul, fleet, fleet, "old")
    node = new_node("n1", handlers=commanding(fleet, directory / "done"), clock_off=off).start()
    node.await_outcomes("run", "expired", 1)
    node.set_clock(0.0)
    publish(consul, fleet, fleet, "first")
    wait_until(lambda: ran(directory) == ["first"], "the first message")
    node.stop()
    publish(consul, fleet, fleet, "second")

    node.start()

    wait_until(lambda: ran(directory) == ["first", "second"], "the message that was published meanwhile")


def ran(directory: Path) -> list[str]:
    """The messages for which the program ran, in order."""
    done = directory / "done"
    return done.read_text().split() if done.exists() else []


# ---------------------------------------------------------------- following, and relaying


@OFF
def test_a_node_whose_clock_is_wrong_follows_in_order_and_blocks_for_as_long(
    consul: ConsulAgent, fleet: str, new_node: NewNode, off: float
) -> None:
    """A message of a minute is not dead on arrival; an entry lasts by the node's own clock."""
    handlers = {"tally": tally(fleet)} | blacklist(f"{fleet}-b")
    node = new_node("n1", handlers=handlers, clock_off=off).start()
    publish(consul, fleet, fleet, "1")
    node.await_tally("1")
    publish(consul, fleet, f"{fleet}-b", "add 198.51.100.7 10m")
    publish(consul, fleet, fleet, "2", expires=time.time() + 60)
    publish(consul, fleet, fleet, "3")

    node.await_tally("1", "2", "3")
    wait_until(lambda: blocked(node), "the address to be blocked")
    found = json.loads(node.agentd.command("blacklist", "list", "--json").stdout)["entries"][0]
    ahead = min(max(-off, 0.0), 3600.0)  # the publisher's clock, as the node sees it
    assert 600 <= found["until"] - found["since"] <= 600 + ahead + 60


@OFF
def test_a_relay_whose_clock_is_wrong_spoils_the_log_for_nobody(
    new_consul: Callable[..., ConsulAgent], fleet: str, new_node: NewNode, off: float
) -> None:
    """What others write comes after what it wrote, in one order, also once its clock is right again."""
    consul = new_consul()
    relay = new_node("n1", clock_off=off, consul=consul)
    other = new_node("n2", relay=False, consul=consul)
    for node in (relay, other):
        node.start()
        node.agentd.await_listening()
    publish(consul, fleet, fleet, "1")
    other.await_tally("1")
    consul.fire(fleet, b"2")
    other.await_tally("1", "2")
    publish(consul, fleet, fleet, "3")
    other.await_tally("1", "2", "3")
    relay.stop()
    relay.set_clock(0.0)
    relay.start()
    consul.fire(fleet, b"4")

    for node in (relay, other, new_node("n3", consul=consul).start()):
        node.await_tally("1", "2", "3", "4")


def test_a_relay_whose_clock_is_a_year_ahead_deletes_nothing_young(
    new_consul: Callable[..., ConsulAgent], fleet: str, new_node: NewNode
) -> None:
    """There are more messages than are kept in any case, and by its clock all of them are too old."""
    consul, count = new_consul(), LEAST + MOST_DRAFTS
    with open_log(consul, fleet) as log:
        for _ in range(0, count, MOST_DRAFTS):
            drafts = [Draft(b"x", time.time(), "test", node="^other$") for _ in range(MOST_DRAFTS)]
            log.append(fleet, drafts, keep="all")
        before = log.numbers(fleet)
        node = new_node("n1", clock_off=YEAR, consul=consul).start()
        node.agentd.await_listening()
        for number in (1, 2):
            consul.fire(fleet, b"%d" % number)
            node.await_tally(*map(str, range(1, number + 1)))

        assert log.numbers(fleet)[:-2] == before

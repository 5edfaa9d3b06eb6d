"""A fleet follows its log on a real Consul: down, joined later, without a journal, in one order, once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import Draft
from agentd.fleet.pruning import MOST
from agentd.fleet.writer import MOST_DRAFTS
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]
KILLS = 6
MESSAGES = 120


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_follower(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet: `new_follower("node1", keep="latest")`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            node = FollowingNode(directory / name, name, fleet=fleet, consul=consul, **options)
            stack.callback(node.stop)
            return node

        yield make


def test_a_node_that_was_down_catches_up_in_order(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """Three nodes; what came while one was down is applied there once, as on the others."""
    nodes = [new_follower(f"node{number}").start() for number in (1, 2, 3)]
    publish(consul, fleet, "tally", "1", "2")
    for node in nodes:
        node.await_tally("1", "2")
    nodes[2].stop()
    publish(consul, fleet, "tally", "3", "4", "5")
    for node in nodes[:2]:
        node.await_tally("1", "2", "3", "4", "5")

    nodes[2].start()
    nodes[2].await_tally("1", "2", "3", "4", "5")
    publish(consul, fleet, "tally", "6")

    for node in nodes:
        node.await_tally("1", "2", "3", "4", "5", "6")
        node.await_outcomes("tally", "applied", 6)


def test_events_that_fire_while_a_node_is_down_reach_it_in_the_order_of_the_others(
    new_consul: Callable[..., ConsulAgent], directory: Path, fleet: str
) -> None:
    """Plain `consul event`, three nodes with an agent each; one, with its agent, is down meanwhile."""
    agents = [new_consul(node="node1", address="127.0.0.1")]
    agents += [
        new_consul(node=f"node{number}", address=f"127.0.0.{number}", join=agents[0]) for number in (2, 3)
    ]
    with ExitStack() as stack:
        nodes = []
        for number, agent in enumerate(agents, 1):
            node = FollowingNode(directory / f"n{number}", f"node{number}", fleet=fleet, consul=agent)
            stack.callback(node.stop)
            nodes.append(node.start())
            node.agentd.await_listening()
        agents[0].fire("tally", b"0")
        for node in nodes:
            node.await_tally("0")
        nodes[2].stop()
        agents[2].stop()
        for number in range(1, 9):
            agents[number % 2].fire("tally", str(number).encode())
        wait_until(lambda: all(len(node.tally()) == 9 for node in nodes[:2]), "nine events")
        assert nodes[0].tally() == nodes[1].tally()
        assert sorted(nodes[0].tally()) == [str(number) for number in range(9)]

        agents[2].start()
        nodes[2].start()

        nodes[2].await_tally(*nodes[0].tally())
        nodes[2].await_outcomes("tally", "applied", 9)


def test_a_joiner_gets_what_is_in_force(consul: ConsulAgent, fleet: str, new_follower: NewNode) -> None:
    """But nothing whose time is over."""
    publish(consul, fleet, "tally", "over", expires=time.time() + 0.5)
    publish(consul, fleet, "tally", "1", "2")
    time.sleep(0.6)

    new_follower("node1").start().await_tally("1", "2")


def test_of_latest_a_node_that_was_down_gets_only_the_newest(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """Those before it are over."""
    node = new_follower("node1", keep="latest").start()
    publish(consul, fleet, "tally", "1", keep="latest")
    node.await_tally("1")
    node.stop()
    publish(consul, fleet, "tally", "2", "3", "4", keep="latest")

    node.start()

    node.await_tally("1", "4")
    joiner = new_follower("node2", keep="latest").start()
    joiner.await_tally("4")


def test_a_node_that_lost_its_journal_applies_nothing_twice(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """The tree knows how far it came."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "1", "2", "3")
    node.await_tally("1", "2", "3")
    node.stop()
    node.lose_journal()
    publish(consul, fleet, "tally", "4")

    node.start()

    node.await_tally("1", "2", "3", "4")


def test_a_node_that_lost_all_begins_anew(consul: ConsulAgent, fleet: str, new_follower: NewNode) -> None:
    """As a joiner, with the name that it had."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "1", "2")
    node.await_tally("1", "2")
    node.stop()
    again = new_follower("node1b", settings={"fleet": node.config["fleet"]})

    again.start().await_tally("1", "2")


def test_a_joiner_runs_no_command_older_than_itself(
    consul: ConsulAgent, fleet: str, new_follower: NewNode, directory: Path
) -> None:
    """What was to be done then is not done now; what comes afterwards is."""
    publish(consul, fleet, "run", "old")
    done = directory / "done"
    command = {
        "use": "command",
        "on": [{"event": "run", "keep": "all"}],
        "options": {"shell": f'echo "$AGENTD_PAYLOAD_BASE64" >> {done}; echo x >> {done}.count'},
    }
    node = new_follower("node1", handlers={"run": command}).start()
    wait_until(lambda: node.history("run"), "the old message")
    publish(consul, fleet, "run", "new")

    wait_until(lambda: len(node.history("run")) == 2, "the new message")
    wait_until(lambda: all(row["outcome"] for row in node.history("run")), "outcomes")
    assert [row["outcome"] for row in node.history("run")] == ["expired", "applied"]
    assert (directory / "done.count").read_text().split() == ["x"]


def test_a_node_that_was_away_for_too_long_is_incomplete_until_a_snapshot(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """The log went on by more than it keeps; what of it is still there is applied, and the gap is told."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "1")
    node.await_tally("1")
    node.stop()
    with open_log(consul, fleet) as log:
        (first,) = log.numbers("tally")
        for _ in range(MOST // MOST_DRAFTS + 5):
            drafts = [
                Draft(b"x", issued=time.time(), publisher="test", node="^other$") for _ in range(MOST_DRAFTS)
            ]
            log.append("tally", drafts, keep="all")
    publish(consul, fleet, "tally", "2")

    node.start()

    def since() -> int | None:
        told = json.loads(node.agentd.get("/status")[1])["fleet"]["names"]["tally"]["incomplete_since"]
        return None if told is None else int(told)

    node.await_tally("1", "2")
    wait_until(lambda: since() == first, "the gap")
    publish(consul, fleet, "tally", "all", snapshot=True)
    wait_until(lambda: since() is None, "the end of the gap")
    node.await_tally("1", "2", "all")


@pytest.mark.parametrize("off", [-600.0, 600.0])
def test_a_clock_that_is_ten_minutes_off_makes_nothing_dead_on_arrival(
    consul: ConsulAgent, fleet: str, new_follower: NewNode, off: float
) -> None:
    """A node that follows takes a message that is valid for a minute, whatever the publisher's clock says."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "1")
    node.await_tally("1")
    issued = time.time() + off
    publish(consul, fleet, "tally", "2", issued=issued, expires=issued + 60)
    publish(consul, fleet, "tally", "3")

    node.await_tally("1", "2", "3")


def test_messages_for_others_do_not_come(consul: ConsulAgent, fleet: str, new_follower: NewNode) -> None:
    """By node, and by the services of the agent."""
    identity = f"web-{fleet}"
    consul.register(fleet, 80, identity=identity)
    nodes = [new_follower(name).start() for name in ("node1", "node2")]
    publish(consul, fleet, "tally", "first", node="^node1$")
    publish(consul, fleet, "tally", "none", service=f"^no-{fleet}$")
    publish(consul, fleet, "tally", "both", service=f"^{fleet}$")

    nodes[0].await_tally("first", "both")
    nodes[1].await_tally("both")
    consul.deregister(identity)


def test_a_large_payload_comes_whole(consul: ConsulAgent, fleet: str, new_follower: NewNode) -> None:
    """From a key of its own."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "x" * 100_000)

    node.await_tally("x" * 100_000)


def test_a_change_of_the_configuration_is_followed(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """A name that becomes kept, one that is not any more, and one that is again."""
    node = new_follower("node1")
    on: list[dict[str, Any]] = node.config["handlers"]["tally"]["on"]
    on[0].pop("keep")
    node.configure()
    node.start()
    publish(consul, fleet, "tally", "1", "2")

    def reload(**item: str) -> None:
        before = len(_said(node, "config.reloaded"))
        on[0] = {"event": "tally", **item}
        node.configure()
        node.agentd.reload()
        wait_until(lambda: len(_said(node, "config.reloaded")) > before, "the reload")

    reload(keep="all")
    node.await_tally("1", "2")
    reload()
    publish(consul, fleet, "tally", "3")
    reload(keep="all")

    node.await_tally("1", "2", "3")


def test_a_handler_that_newly_takes_a_kept_name_joins(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """It gets what is in force; the other one gets nothing twice."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "1", "2")
    node.await_tally("1", "2")
    run = {"use": "command", "on": [{"event": "tally", "keep": "all"}], "options": {"argv": ["/bin/true"]}}
    node.config["handlers"]["run"] = run
    node.configure()
    node.agentd.reload()
    wait_until(lambda: len(node.history("run")) == 2, "the messages")
    publish(consul, fleet, "tally", "3")

    node.await_tally("1", "2", "3")
    wait_until(lambda: len(node.history("run")) == 3, "the message")
    wait_until(lambda: node.history("run")[-1]["outcome"] == "applied", "the outcome")


def test_junk_beside_the_heads_makes_nobody_deaf(
    new_consul: Callable[..., ConsulAgent], fleet: str, directory: Path
) -> None:
    """More than any answer that is read: heads are then read by key, and that is told."""
    consul = new_consul()
    node = FollowingNode(directory / "n1", "node1", fleet=fleet, consul=consul)
    try:
        node.start()
        publish(consul, fleet, "tally", "1")
        node.await_tally("1")
        for number in range(110):  # 70 MB, in base64
            consul.kv_put(f"agentd/{fleet}/names/junk/{number}", b"x" * 480_000)
        publish(consul, fleet, "tally", "2")

        node.await_tally("1", "2")
        wait_until(lambda: "there is too much below" in node.agentd.get("/readyz")[1], "the trouble")
    finally:
        node.stop()


def test_a_burst_wakes_a_node_seldom(consul: ConsulAgent, fleet: str, new_follower: NewNode) -> None:
    """Five times a second at most, and the first time at once."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "first")
    node.await_tally("first")
    answers, began = _answers(node), time.monotonic()
    publish(consul, fleet, "tally", *(str(number) for number in range(100)))
    node.await_tally("first", *(str(number) for number in range(100)))

    assert _answers(node) - answers <= (time.monotonic() - began) / 0.2 + 2


def _answers(node: FollowingNode) -> int:
    queries = json.loads(node.agentd.get("/status")[1])["queries"]
    return next(int(one["answers"]) for one in queries if one["query"].endswith("/names/"))


def test_a_daemon_starts_without_consul_and_its_token(
    fleet: str, directory: Path, consul: ConsulAgent
) -> None:
    """And follows once both are there."""
    token = directory / "token"
    settings = {"consul": {"address": f"{consul.address}:{consul.ports['http']}", "token_file": str(token)}}
    node = FollowingNode(directory / "n1", "node1", fleet=fleet, consul=consul, settings=settings)
    try:
        node.start()
        publish(consul, fleet, "tally", "1")
        token.write_text("any-token-as-there-are-no-acls\n")

        node.await_tally("1")
    finally:
        node.stop()


def test_another_fleet_is_followed_from_its_beginning(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """Its numbers are others, and nothing of the one log comes into the other."""
    publish(consul, f"{fleet}-b", "tally", "b")
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "a")
    node.await_tally("a")
    node.config["fleet"]["name"] = f"{fleet}-b"
    node.configure()
    node.agentd.reload()

    node.await_tally("a", "b")
    publish(consul, f"{fleet}-b", "tally", "c")
    node.await_tally("a", "b", "c")
    with open_log(consul, f"{fleet}-b") as log:
        assert len(log.numbers("tally")) == 2


def test_kill_9_loses_nothing_and_repeats_nothing(
    consul: ConsulAgent, fleet: str, new_follower: NewNode
) -> None:
    """Whatever the daemon was doing: between hearing, writing to the log, reading it and applying."""
    node = new_follower("node1", event=f"tally-{fleet}").start()
    node.agentd.await_listening()
    chance = random.Random(20261126)
    sent = [str(number) for number in range(MESSAGES)]
    share = MESSAGES // KILLS
    name = f"tally-{fleet}"
    for at in range(KILLS):
        for number in sent[at * share : (at + 1) * share]:
            consul.fire(name, number.encode())
        time.sleep(chance.uniform(0.0, 0.4))
        node.agentd.kill()
        node.start()

    wait_until(lambda: len(node.tally()) >= MESSAGES, "all messages")
    assert sorted(node.tally(), key=int) == sent
    node.await_outcomes("tally", "applied", MESSAGES)


def test_the_state_is_told(consul: ConsulAgent, fleet: str, new_follower: NewNode) -> None:
    """In /status, `agentd status`, /readyz and the metrics; a head that is poisoned is not believed."""
    node = new_follower("node1").start()
    publish(consul, fleet, "tally", "1")
    node.await_tally("1")

    def told() -> dict[str, Any]:
        return dict(json.loads(node.agentd.get("/status")[1])["fleet"])

    def in_step() -> bool:
        return bool(told()["names"]["tally"]["position"] == told()["names"]["tally"]["newest"] > 0)

    def waits(count: int) -> bool:
        return f'agentd_fleet_waits{{event="tally"}} {count}.0' in node.agentd.get("/metrics")[1]

    wait_until(in_step, "the position")
    assert [told()[each] for each in ("name", "node", "troubles")] == [fleet, "node1", []]
    wait_until(partial(waits, 0), "the metric")

    def shows(told: Callable[[], bool]) -> Callable[[], bool]:
        def shown() -> bool:
            consul.kv_put(f"agentd/{fleet}/names/tally", b"poison")  # again: the node writes its own back
            return told()

        return shown

    wait_until(shows(partial(_is_behind, node)), "the trouble", pause=0.2)
    wait_until(shows(partial(waits, 1)), "the metric", pause=0.2)
    text = "! fleet: the log of tally waits: its head cannot be used"
    wait_until(shows(lambda: text in node.agentd.command("status").stdout), "the command", pause=0.5)
    publish(consul, fleet, "tally", "2")
    node.await_tally("1", "2")
    wait_until(lambda: not _is_behind(node), "the end of the trouble")


def _is_behind(node: FollowingNode) -> bool:
    return any(
        "fleet: the log of tally waits" in one for one in json.loads(node.agentd.get("/readyz")[1])["behind"]
    )


def _said(node: FollowingNode, event: str) -> list[str]:
    return [line for line in node.agentd.log_lines() if event in line]

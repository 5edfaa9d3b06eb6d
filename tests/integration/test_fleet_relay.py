"""What is heard reaches the whole fleet once, whatever happens to Consul and to the nodes meanwhile."""

from __future__ import annotations

import base64
import json
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import urllib3

from agentd.fleet.keys import Keys
from agentd.journal.entry import RELAY
from tests.servers.consul import ConsulAgent, ConsulAnswerError
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]
NewConsul = Callable[..., ConsulAgent]
FLEET = "web"
NAME = "tally"
KEYS = Keys(FLEET)


@pytest.fixture
def new_node(directory: Path) -> Iterator[NewNode]:
    """Make and start nodes: `new_node("n1", consul)`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, consul: ConsulAgent, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            node = FollowingNode(directory / name, name, fleet=FLEET, consul=consul, **options)
            stack.callback(node.stop)
            node.start()
            node.agentd.await_listening()
            return node

        yield make


def messages(consul: ConsulAgent) -> dict[str, bytes]:
    """Every message of the log as it lies in Consul, by its key, in order."""
    found = consul.get(f"/v1/kv/{KEYS.messages(NAME)}?recurse")
    return {one["Key"]: base64.b64decode(one["Value"]) for one in found}


def in_log(consul: ConsulAgent) -> list[str]:
    """The payloads of all messages, in their order; nothing while Consul cannot be asked."""
    try:
        found = messages(consul).values()
    except (ConsulAnswerError, OSError):
        return []
    return [base64.b64decode(json.loads(one)["body"]).decode() for one in found]


def await_log(consul: ConsulAgent, *payloads: str) -> None:
    """Wait until the log has exactly these, in any order."""
    wait_until(lambda: sorted(in_log(consul)) == sorted(payloads), f"{payloads} in the log")


def await_alike(nodes: Sequence[FollowingNode], *payloads: str) -> None:
    """Wait until every node has applied each of these once, and all in one order."""
    wait_until(
        lambda: (
            sorted(nodes[0].tally()) == sorted(payloads)
            and all(node.tally() == nodes[0].tally() for node in nodes)
        ),
        f"{payloads} on all nodes; they have {[node.tally() for node in nodes]}",
    )


def fire(consul: ConsulAgent, *payloads: str) -> None:
    """Fire an event for each."""
    for payload in payloads:
        consul.fire(NAME, payload.encode())


def says(node: FollowingNode, event: str) -> list[str]:
    """The lines of a node's log with that event."""
    return [line for line in node.agentd.log_lines() if f'"{event}"' in line]


# ---------------------------------------------------------------- as it should be


def test_what_is_fired_is_in_the_log_once_and_on_every_node(new_consul: NewConsul, new_node: NewNode) -> None:
    """Whoever of them writes it; also on one that was down and one that joins later."""
    consul = new_consul()
    nodes = [new_node(f"n{at}", consul) for at in range(3)]
    fire(consul, "1", "2")
    await_alike(nodes, "1", "2")
    nodes[2].stop()
    fire(consul, "3")
    await_alike(nodes[:2], "1", "2", "3")

    nodes[2].start()
    nodes.append(new_node("n3", consul))

    await_alike(nodes, "1", "2", "3")
    await_log(consul, "1", "2", "3")


def test_what_lies_in_the_ring_at_the_first_start_is_not_relayed(
    new_consul: NewConsul, new_node: NewNode
) -> None:
    """It may be weeks old."""
    consul = new_consul()
    fire(consul, "old")
    node = new_node("n1", consul)
    wait_until(lambda: node.history(RELAY), "the old event in the journal")

    fire(consul, "new")

    await_alike([node], "new")
    assert in_log(consul) == ["new"]


# ---------------------------------------------------------------- without a leader, without rights


def test_without_a_leader_events_are_applied_and_are_in_the_log_afterwards(
    new_consul: NewConsul, new_node: NewNode
) -> None:
    """Invariant 1: the leader is lost while nodes write, and nothing is written twice."""
    servers = [new_consul(node="s1")]
    servers += [
        new_consul(node=f"s{at}", address=f"127.0.0.{at}", join=servers[0], server=True) for at in (2, 3)
    ]
    voters = "/v1/operator/raft/configuration"
    wait_until(
        lambda: sum(one["Voter"] for one in servers[0].get(voters)["Servers"]) == 3,
        "three servers that vote",
    )
    address = servers[0].get("/v1/status/leader")
    leader = next(one for one in servers if address == f"{one.address}:{one.ports['server']}")
    others = [one for one in servers if one is not leader]
    nodes = [new_node(f"n{at}", one) for at, one in enumerate(others)]
    before, after = [f"a{at}" for at in range(20)], [f"b{at}" for at in range(20)]

    fire(others[0], *before)
    # The leader fires them, and what it has told nobody yet is lost with it.
    wait_until(lambda: len(others[0].events()) >= len(before), "another to have heard all of them")
    leader.kill()
    for payload in after:
        wait_until(partial(fired, others[0], payload), "an event to be fired")

    await_log(others[0], *before, *after)
    for node in nodes:
        wait_until(partial(has_all, node, {*before, *after}), f"all on {node.name}")


def has_all(node: FollowingNode, payloads: set[str]) -> bool:
    """Whether the node has applied all of these."""
    return set(node.tally()) == payloads


def fired(consul: ConsulAgent, payload: str) -> bool:
    """Fire one event, unless there is no leader."""
    try:
        consul.fire(NAME, payload.encode())
    except (ConsulAnswerError, OSError):
        return False
    return True


def test_without_rights_events_work_and_the_rule_is_told(
    new_consul: NewConsul, new_node: NewNode, directory: Path
) -> None:
    """Once it is granted, what was applied meanwhile is in the log, and the next event goes through it."""
    consul = new_consul(acl=True)
    rights = {"event_prefix": "write", "agent_prefix": "read", "node_prefix": "read"}
    poor = " ".join(f'{one} "" {{ policy = "{right}" }}' for one, right in rights.items())
    policy = consul.put("/v1/acl/policy", {"Name": "node", "Rules": poor})
    token = consul.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"]
    (directory / "token").write_text(token)
    where = {"address": f"{consul.address}:{consul.ports['http']}", "token_file": str(directory / "token")}
    node = new_node("n1", consul, settings={"consul": where})
    fire(consul, "1", "2")

    wait_until(lambda: node.tally() == ["1", "2"], "the events to be applied all the same")

    (told,) = says(node, "fleet.not_permitted")
    assert f'key_prefix \\"{KEYS.names}\\"' in told
    rules = poor + f' key_prefix "{KEYS.root}" {{ policy = "write" }}'
    consul.put(f"/v1/acl/policy/{policy['ID']}", {"Name": "node", "Rules": rules})
    node.stop()  # it would ask again within a minute
    node.start()
    await_log(consul, "1", "2")
    fire(consul, "3")
    await_log(consul, "1", "2", "3")
    wait_until(lambda: "3" in node.tally(), "the next one")


# ---------------------------------------------------------------- Consul loses its data


@pytest.fixture
def lost(new_consul: NewConsul, new_node: NewNode) -> tuple[ConsulAgent, list[FollowingNode]]:
    """Two nodes that have three messages; what happens to Consul is up to the test."""
    consul = new_consul()
    # A poll returns only at the end of its wait when an older index comes back.
    where = {"address": f"{consul.address}:{consul.ports['http']}", "wait": "5s"}
    nodes = [new_node(f"n{at}", consul, settings={"consul": where}) for at in range(2)]
    fire(consul, "1", "2", "3")
    await_alike(nodes, "1", "2", "3")
    return consul, nodes


def test_a_wiped_store_is_written_back_verbatim(
    lost: tuple[ConsulAgent, list[FollowingNode]], new_node: NewNode
) -> None:
    """A node that joins afterwards gets all of it, and the numbers go on."""
    consul, nodes = lost
    before = messages(consul)

    consul.kv_delete(KEYS.root, recurse=True)

    await_log(consul, "1", "2", "3")
    assert messages(consul) == before
    fire(consul, "4")
    await_alike([*nodes, new_node("n9", consul)], "1", "2", "3", "4")
    assert list(messages(consul))[:3] == list(before)


def test_after_an_old_snapshot_the_log_is_the_longest_that_was_held(
    lost: tuple[ConsulAgent, list[FollowingNode]],
) -> None:
    """Invariant 4; and nothing is applied twice."""
    consul, nodes = lost
    snapshot = directly(consul, "GET")
    fire(consul, "4", "5")
    await_alike(nodes, "1", "2", "3", "4", "5")
    before = messages(consul)

    directly(consul, "PUT", snapshot)

    await_log(consul, "1", "2", "3", "4", "5")
    assert messages(consul) == before
    fire(consul, "6")
    await_alike(nodes, "1", "2", "3", "4", "5", "6")


def directly(consul: ConsulAgent, method: str, body: bytes | None = None) -> bytes:
    """Take or restore a snapshot (https://developer.hashicorp.com/consul/api-docs/snapshot)."""
    with urllib3.HTTPConnectionPool(consul.address, consul.ports["http"], retries=False) as pool:
        answer = pool.request(method, "/v1/snapshot", body=body, timeout=30)
    assert answer.status == 200
    return answer.data


def test_a_consul_that_is_built_anew_has_the_log_again(
    lost: tuple[ConsulAgent, list[FollowingNode]],
) -> None:
    """Its clocks and indexes begin anew, and the log goes on."""
    consul, nodes = lost
    before = messages(consul)

    consul.stop()
    shutil.rmtree(consul.directory / "data")
    consul.start()

    await_log(consul, "1", "2", "3")
    assert messages(consul) == before
    fire(consul, "4")
    await_alike(nodes, "1", "2", "3", "4")


def test_what_is_forgotten_stays_forgotten_when_the_store_is_wiped(
    lost: tuple[ConsulAgent, list[FollowingNode]],
) -> None:
    """Nodes that have seen it do not write it back."""
    consul, nodes = lost
    with open_log(consul, FLEET) as log:
        log.forget(NAME)
    fire(consul, "4")
    await_alike(nodes, "1", "2", "3", "4")

    consul.kv_delete(KEYS.root, recurse=True)

    await_log(consul, "4")


# ---------------------------------------------------------------- nodes and agents that end


def test_a_kill_between_hearing_and_writing_loses_nothing(new_consul: NewConsul, new_node: NewNode) -> None:
    """The journal has what was heard; the log says what was written."""
    consul = new_consul()
    node = new_node("n1", consul)
    draw = random.Random(1)
    payloads = [str(at) for at in range(10)]

    for payload in payloads:
        event = consul.fire(NAME, payload.encode())
        wait_until(partial(has_heard, node, event), f"{payload} in the journal", pause=0.001)
        time.sleep(draw.uniform(0.0, 0.01))  # the moment is what is tried
        node.agentd.kill()
        node.start()

    await_alike([node], *payloads)
    assert sorted(in_log(consul)) == sorted(payloads)


def has_heard(node: FollowingNode, event: str) -> bool:
    """Whether the node has it in its journal."""
    return any(row["id"] == event for row in node.history(RELAY))


def test_an_agent_that_is_restarted_delays_only_its_own_node(
    new_consul: NewConsul, new_node: NewNode
) -> None:
    """What was fired elsewhere meanwhile comes through the log; what is fired afterwards as before."""
    server = new_consul(node="s1")
    agents = [new_consul(node=f"c{at}", address=f"127.0.0.{at}", join=server) for at in (2, 3)]
    nodes = [new_node(f"n{at}", agent) for at, agent in enumerate(agents)]
    fire(agents[0], "1")
    await_alike(nodes, "1")

    agents[0].stop()
    fire(agents[1], "2", "3")
    await_alike(nodes[1:], "1", "2", "3")
    agents[0].start()

    await_alike(nodes, "1", "2", "3")
    fire(agents[0], "4")
    await_alike(nodes, "1", "2", "3", "4")
    await_log(server, "1", "2", "3", "4")


@pytest.mark.parametrize("content", [None, b"no database"])
def test_a_node_that_lost_what_it_holds_of_the_log_holds_it_again(
    new_consul: NewConsul, new_node: NewNode, content: bytes | None
) -> None:
    """Its file was deleted or damaged; when the store is wiped after that, it has all to write back."""
    consul = new_consul()
    node = new_node("n1", consul)
    fire(consul, "1", "2")
    await_alike([node], "1", "2")
    node.stop()
    for path in (node.directory / "state").glob("fleet.db*"):
        path.unlink()
    if content:
        (node.directory / "state" / "fleet.db").write_bytes(content)

    node.start()
    wait_until(lambda: held(node) == 2, "what it holds")
    consul.kv_delete(KEYS.root, recurse=True)
    fire(consul, "3")

    await_log(consul, "1", "2", "3")
    await_alike([node], "1", "2", "3")


def test_what_is_written_back_reaches_a_node_that_went_on_before(
    new_consul: NewConsul, new_node: NewNode
) -> None:
    """It was down, and came back to a wiped log that a command had written to already."""
    consul = new_consul()
    nodes = [new_node(f"n{at}", consul) for at in range(2)]
    publish(consul, FLEET, NAME, "1")
    await_alike(nodes, "1")
    nodes[1].stop()
    publish(consul, FLEET, NAME, "2", "3")
    nodes[0].await_tally("1", "2", "3")
    nodes[0].stop()
    consul.kv_delete(KEYS.root, recurse=True)
    publish(consul, FLEET, NAME, "4")
    nodes[1].start()
    nodes[1].await_tally("1", "4")

    nodes[0].start()

    nodes[0].await_tally("1", "2", "3", "4")
    wait_until(lambda: {"2", "3"} <= set(nodes[1].tally()), "what was written back")
    wait_until(lambda: nodes[1].tally()[-3:] == ["2", "3", "4"], "the log's order")


def held(node: FollowingNode) -> int:
    """How many messages a node holds."""
    with closing(sqlite3.connect(f"file:{node.directory}/state/fleet.db?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])

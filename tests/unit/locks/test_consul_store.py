"""What is sent to Consul, and what its answers become; real bytes from a scripted agent."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.locks.consul_store import ConsulStore, Pair
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.unit.watch.scripted import ScriptedAgent, reply


@pytest.fixture
def agent() -> Iterator[ScriptedAgent]:
    """A scripted agent; fill `agent.script` with replies."""
    with tempfile.TemporaryDirectory(prefix="agentd-") as directory:
        agent = ScriptedAgent(Path(directory) / "consul.sock")
        yield agent
        agent.stop()


@pytest.fixture
def real_store(agent: ScriptedAgent) -> Iterator[ConsulStore]:
    """The store that speaks HTTP."""
    with closing(ConsulClient(ConsulOptions(address=agent.address, datacenter="dc2"))) as client:
        yield ConsulStore(client)


RAW = {"Key": "a b", "Value": "eA==", "Flags": 3, "ModifyIndex": 8, "LockIndex": 0, "CreateIndex": 7}


def test_read_is_consistent_and_blocks(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Keys with and without a session and a value."""
    held = {**RAW, "Key": "c", "Value": None, "Session": "s"}
    agent.script = [reply([RAW, held], X_Consul_Index="9")]
    listing = real_store.read("a b", recurse=True, index=5, wait=20.0)
    assert agent.requests[0].target == "/v1/kv/a%20b?consistent=&recurse=&dc=dc2&index=5&wait=20.000s"
    assert listing.index == 9
    assert listing.pairs == (Pair("a b", b"x", 3, "", 8), Pair("c", b"", 3, "s", 8))


def test_wait_of_almost_nothing_does_not_block(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Consul would take a wait of 0.000s for five minutes."""
    agent.script = [reply(b"", 404, X_Consul_Index="9")]
    assert real_store.read("a", recurse=False, index=5, wait=0.0004).pairs == ()
    assert "wait" not in agent.requests[0].target


def test_writes_say_what_must_hold(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Session, flags and index go into the query string; the answer is yes or no."""
    agent.script = [reply(b"true"), reply(b"false"), reply(b"true"), reply(b"false"), reply(b"true")]
    said = [
        real_store.acquire("a", "s", 2**63),
        real_store.release("a", "s", 1),
        real_store.replace("a", b"\xff", 1, 4),
        real_store.delete("a", 4),
        real_store.delete("a"),
    ]
    assert said == [True, False, True, False, True]
    assert [(one.method, one.target, one.body) for one in agent.requests] == [
        ("PUT", f"/v1/kv/a?acquire=s&flags={2**63}&dc=dc2", b""),
        ("PUT", "/v1/kv/a?release=s&flags=1&dc=dc2", b""),
        ("PUT", "/v1/kv/a?cas=4&flags=1&dc=dc2", b"\xff"),
        ("DELETE", "/v1/kv/a?cas=4&dc=dc2", b""),
        ("DELETE", "/v1/kv/a?dc=dc2", b""),
    ]


def test_session_is_made_renewed_and_destroyed(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """A renewal that finds none says so."""
    agent.script = [reply({"ID": "s"}), reply([{}]), reply(b"gone", 404), reply(b"true")]
    assert real_store.create_session("name", 15.0, "delete") == "s"
    assert [real_store.renew_session("s", 3.0), real_store.renew_session("s", 3.0)] == [True, False]
    real_store.destroy_session("s")
    assert json.loads(agent.requests[0].body) == {"Name": "name", "TTL": "15s", "Behavior": "delete"}
    assert [one.target.split("?")[0] for one in agent.requests[1:]] == [
        "/v1/session/renew/s",
        "/v1/session/renew/s",
        "/v1/session/destroy/s",
    ]


@pytest.mark.parametrize("found,node", [([{"Node": "lb1"}], "lb1"), ([], "")])
def test_node_of_a_session(
    agent: ScriptedAgent, real_store: ConsulStore, found: list[dict[str, str]], node: str
) -> None:
    """None if the session has ended."""
    agent.script = [reply(found, X_Consul_Index="9")]
    assert real_store.node_of("s") == node


def test_transaction_that_was_rolled_back_says_why(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """409 is an answer: which operation, and its reason."""
    agent.script = [reply({"Results": None, "Errors": [{"OpIndex": 0, "What": "not ours"}]}, 409)]
    assert real_store.transact([{"Verb": "get", "Key": "a"}]).failures == ((0, "not ours"),)
    assert json.loads(agent.requests[0].body) == [{"KV": {"Verb": "get", "Key": "a"}}]


def test_a_right_that_is_missing_is_no_conflict(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Consul answers 409 to both; trying again helps only with the other one."""
    what = "Permission denied: token with AccessorID '1' lacks permission 'key:write' on \"b\""
    agent.script = [reply({"Results": None, "Errors": [{"OpIndex": 1, "What": what}]}, 409)]
    with pytest.raises(ConsulRefused, match=r"permission denied.*for the key b"):
        real_store.transact([{"Verb": "get", "Key": "a"}, {"Verb": "delete", "Key": "b"}])


def test_transaction_answers_in_order(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Consul wraps each result."""
    agent.script = [reply({"Results": [{"KV": {"Key": "a"}}, {"KV": {"Key": "b"}}], "Errors": None})]
    assert [one["Key"] for one in real_store.transact([]).results] == ["a", "b"]


def test_something_else_than_consul_is_an_error(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Text that is no JSON, or a 404 where there is none."""
    agent.script = [reply(b"<html>"), reply(b"not here", 404)]
    with pytest.raises(ConsulUnavailable, match="is this a Consul agent"):
        real_store.acquire("a", "s", 1)
    with pytest.raises(ConsulRefused, match="not that of a Consul agent"):
        real_store.create_session("name", 15.0, "release")


def test_another_store_has_a_connection_of_its_own(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """To close it leaves the first alone."""
    other = real_store.another()
    other.close()
    agent.script = [reply(b"true")]
    assert real_store.delete("a")
    with pytest.raises(ConsulUnavailable):
        other.delete("a")


@pytest.mark.parametrize(
    "answer",
    [
        7, "text", [7], [{}], [RAW | {"Value": "!"}], [RAW | {"Value": 7}], [RAW | {"Flags": "3"}],
        [RAW | {"Session": ["s"]}], [RAW | {"Key": None}],
    ],
)  # fmt: skip
def test_pairs_of_another_form_are_no_answer_of_consul(
    agent: ScriptedAgent, real_store: ConsulStore, answer: object
) -> None:
    """What waits for a lock meets an error that it knows."""
    agent.script = [reply(answer, X_Consul_Index="9")]
    with pytest.raises(ConsulUnavailable, match="unexpected form"):
        real_store.read("a b", recurse=True, index=0, wait=0.0)


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"Results": [7]}, {"Errors": [{"OpIndex": "x", "What": 1}]}]
)
def test_session_or_transaction_of_another_form_is_no_answer_of_consul(
    agent: ScriptedAgent, real_store: ConsulStore, answer: object
) -> None:
    """Whichever of the two was asked for."""
    agent.script = [reply(answer), reply(answer or "text")]
    with pytest.raises(ConsulUnavailable, match="unexpected form"):
        real_store.create_session("name", 15.0, "release")
    with pytest.raises(ConsulUnavailable, match="unexpected form"):
        real_store.transact([])


def test_deep_nesting_is_no_answer_of_consul(agent: ScriptedAgent, real_store: ConsulStore) -> None:
    """Python's parser gives up on it in a way of its own."""
    agent.script = [reply(b"[" * 100_000)]
    with pytest.raises(ConsulUnavailable, match="not JSON"):
        real_store.transact([])

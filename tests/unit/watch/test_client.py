"""What Consul's answers mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from agentd.errors import ConsulRefused, ConsulTooLarge, ConsulUnavailable
from agentd.watch import parsing
from agentd.watch.client import AgentInfo, Answer, ConsulClient
from tests.unit.watch.scripted import ScriptedAgent, reply


def test_an_answer_keeps_its_facts(agent: ScriptedAgent, client: ConsulClient) -> None:
    """The headers that py-consul drops are what tells an answer from a guess."""
    agent.script = [
        reply(
            [1],
            X_Consul_Index="18446744073709551615",
            X_Consul_Knownleader="false",
            X_Consul_Lastcontact="1500",
            X_Consul_Results_Filtered_By_ACLs="true",
        )
    ]
    assert client.get("/v1/catalog/nodes") == Answer(
        200, 2**64 - 1, [1], known_leader=False, filtered_by_acls=True
    )


def test_an_endpoint_that_tells_no_leader_is_believed(agent: ScriptedAgent, client: ConsulClient) -> None:
    """The event list is the local agent's own."""
    agent.script = [reply([], X_Consul_Index="1")]
    assert client.get("/v1/event/list") == Answer(200, 1, [])


def test_a_404_of_the_kv_store_is_an_answer(agent: ScriptedAgent, client: ConsulClient) -> None:
    """It has an index: there is no such key."""
    agent.script = [reply(status=404, X_Consul_Index="9")]
    assert client.get("/v1/kv/a") == Answer(404, 9, None)


def test_a_404_without_index_is_no_answer(agent: ScriptedAgent, client: ConsulClient) -> None:
    """Something other than Consul, or an older Consul, knows no such endpoint."""
    agent.script = [reply(status=404)]
    with pytest.raises(ConsulRefused, match="is this a Consul agent"):
        client.get("/v1/kv/a")


@pytest.mark.parametrize("index", ["", "-1", "1.5", "\u0663", "9" * 21])
def test_an_answer_without_index_is_not_consuls(
    agent: ScriptedAgent, client: ConsulClient, index: str
) -> None:
    """A proxy's friendly page must not be taken for an empty state."""
    agent.script = [reply([], X_Consul_Index=index)]
    with pytest.raises(ConsulUnavailable, match="X-Consul-Index"):
        client.get("/v1/catalog/nodes")


def test_an_answer_that_is_not_json_is_not_consuls(agent: ScriptedAgent, client: ConsulClient) -> None:
    """Neither is a broken one."""
    agent.script = [reply(b"[1,", X_Consul_Index="3")]
    with pytest.raises(ConsulUnavailable, match="not JSON"):
        client.get("/v1/catalog/nodes")


def test_an_answer_that_would_take_too_much_memory_is_too_large(
    agent: ScriptedAgent, client: ConsulClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can ask for less must be able to tell it from an answer that is not Consul's."""
    monkeypatch.setattr(parsing, "HEAVIEST", 1000)
    monkeypatch.setattr(parsing, "_SMALL", 0)
    agent.script = [reply([{"Key": str(at)} for at in range(100)], X_Consul_Index="1")]
    with pytest.raises(ConsulTooLarge, match="more than 1000 bytes of memory"):
        client.get("/v1/kv/a")


def test_a_blocking_query_says_how_long(
    agent: ScriptedAgent, new_client: Callable[..., ConsulClient]
) -> None:
    """Index and wait go together; the datacenter goes everywhere."""
    agent.script = [reply([], X_Consul_Index="3")] * 2
    client = new_client(wait=30.0, datacenter="dc2")
    client.get("/v1/catalog/nodes", [("stale", "")])
    client.get("/v1/catalog/nodes", index=3)
    first, second = (parse_qs(urlsplit(one.target).query, keep_blank_values=True) for one in agent.requests)
    assert first == {"stale": [""], "dc": ["dc2"]}
    assert second == {"dc": ["dc2"], "index": ["3"], "wait": ["30.000s"]}


@pytest.mark.parametrize("allowed", [True, False])
def test_a_right_is_asked_for_by_name(agent: ScriptedAgent, client: ConsulClient, *, allowed: bool) -> None:
    """Consul is asked, as its silence means nothing."""
    agent.script = [reply([{"Resource": "key", "Access": "read", "Segment": "a", "Allow": allowed}])]
    assert client.authorized("key", "read", "a") is allowed
    assert json.loads(agent.requests[0].body) == [{"Resource": "key", "Access": "read", "Segment": "a"}]


def test_without_acls_there_is_no_right_to_have(agent: ScriptedAgent, client: ConsulClient) -> None:
    """401 is how Consul says that ACLs are disabled."""
    agent.script = [reply(b"ACL support disabled", 401)]
    assert client.authorized("key", "read", "a") is None


@pytest.mark.parametrize("answer", [reply([]), reply({}), reply(b"null", 404)])
def test_a_consul_that_cannot_tell_is_not_taken_for_a_yes(
    agent: ScriptedAgent, client: ConsulClient, answer: bytes
) -> None:
    """Only a positive answer counts."""
    agent.script = [answer]
    with pytest.raises(ConsulRefused, match="does not say"):
        client.authorized("key", "read", "a")


def test_firing_returns_the_id(agent: ScriptedAgent, client: ConsulClient) -> None:
    """The payload goes out as it is, byte for byte."""
    agent.script = [reply({"ID": "6cbcfba7"})]
    assert client.fire("deploy", b"\xff\x00") == "6cbcfba7"
    assert (agent.requests[0].target, agent.requests[0].body) == ("/v1/event/fire/deploy", b"\xff\x00")


def test_the_agent_tells_who_it_is(agent: ScriptedAgent, client: ConsulClient) -> None:
    """Node, datacenter, version, role, ID, and how many there are."""
    config = {"NodeName": "lb1", "Datacenter": "dc1", "Version": "1.8.7", "Server": False, "NodeID": "ab"}
    agent.script = [reply({"Config": config | {"More": 1}, "Stats": {"serf_lan": {"members": "7"}}})]
    assert client.self_info() == AgentInfo("lb1", "dc1", "1.8.7", server=False, node_id="ab", members=7)


def test_something_else_that_speaks_json_is_not_an_agent(agent: ScriptedAgent, client: ConsulClient) -> None:
    """The error asks the right question."""
    agent.script = [reply([])]
    with pytest.raises(ConsulUnavailable, match="is this a Consul agent"):
        client.self_info()

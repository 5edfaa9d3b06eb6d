"""The states that a command reads without the daemon: what is not believed is never an empty state."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.commands.current_states import NOTHING, ask
from agentd.errors import AgentdError, ConsulUnavailable
from agentd.watch.options import ConsulOptions
from agentd.watch.queries import KeyPrefixQuery, KeyQuery, ServiceQuery
from tests.unit.watch.conftest import agent
from tests.unit.watch.scripted import HANG, ScriptedAgent, reply

__all__ = ["agent"]

PAIR = {"Key": "a", "Value": "MQ==", "CreateIndex": 1, "ModifyIndex": 1, "LockIndex": 0, "Flags": 0}
INDEX: dict[str, Any] = {"X_Consul_Index": "7", "X_Consul_KnownLeader": "true"}
NO_ACLS = reply(b"ACL support disabled", 401)


def asked(agent: ScriptedAgent, *replies: bytes, timeout: float = 5.0) -> Any:  # noqa: ANN401 (what `ask` returns)
    """The answer to one key and one prefix."""
    agent.script = list(replies)
    options = ConsulOptions(address=agent.address)
    return ask(options, [KeyQuery("a"), KeyPrefixQuery("b/")], timeout)


def test_states_come_in_the_order_of_the_queries(agent: ScriptedAgent) -> None:
    """Each as its query has it."""
    states = asked(agent, reply([PAIR], **INDEX), reply([PAIR | {"Key": "b/x"}], **INDEX))

    assert [change.query for change in states.changes] == ["key:a", "keyprefix:b/"]
    assert states.held == {}


def test_what_is_not_there_yet_is_no_empty_state(agent: ScriptedAgent) -> None:
    """The daemon does not believe a first empty answer either."""
    nothing = reply(b"", 404, **INDEX)
    states = asked(agent, nothing, NO_ACLS, nothing, NO_ACLS, reply([PAIR | {"Key": "b/x"}], **INDEX))

    assert [change.query for change in states.changes] == ["keyprefix:b/"]
    assert states.held == {"key:a": NOTHING}


@pytest.mark.parametrize(
    "answer, reason",
    [
        (reply(b"", 500, X_Consul_Index="1"), "key:a: "),
        (reply([PAIR], X_Consul_Index="7", X_Consul_KnownLeader="false"), "no leader"),
        (reply(b"<html>", **INDEX), "key:a: "),
        (reply({"a": 1}, **INDEX), "unexpected form"),
    ],
)
def test_an_answer_that_is_none_ends_with_its_reason(
    agent: ScriptedAgent, answer: bytes, reason: str
) -> None:
    """It names the query as well."""
    with pytest.raises(ConsulUnavailable, match=reason):
        asked(agent, answer)


def test_an_answer_that_acls_have_emptied_ends_with_the_right_that_lacks(agent: ScriptedAgent) -> None:
    """Though Consul's answer is a success."""
    filtered = reply([], X_Consul_Results_Filtered_By_ACLs="true", **INDEX)
    agent.script = [filtered, reply([{"Allow": False}])]

    with pytest.raises(AgentdError, match=r"service:web: .*the token has no right to read service 'web'"):
        ask(ConsulOptions(address=agent.address), [ServiceQuery("web")], 5.0)


def test_a_consul_that_hangs_costs_no_more_than_the_time_limit(agent: ScriptedAgent) -> None:
    """The time is said."""
    with pytest.raises(ConsulUnavailable, match=r"within 0\.2 s"):
        asked(agent, HANG, timeout=0.2)

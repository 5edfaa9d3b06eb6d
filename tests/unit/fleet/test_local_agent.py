"""What the fleet knows of the local agent: asked seldom, and remembered when it does not answer."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from agentd.errors import ConsulUnavailable
from agentd.fleet.local_agent import LocalAgent
from agentd.watch.client import AgentInfo


class Agent:
    """Says its name and how many others it knows, if it is there."""

    def __init__(self) -> None:
        self.asked = 0
        self.known = 7
        self.down = False
        self.now = 0.0

    def connect(self) -> Any:  # noqa: ANN401 (stands for a ConsulClient)
        """As a client, or an error."""
        self.asked += 1
        if self.down:
            raise ConsulUnavailable("nothing is listening there")
        return self

    def self_info(self) -> AgentInfo:
        """See `ConsulClient`."""
        return AgentInfo(node="lb1", datacenter="dc1", version="1.8.7", server=False)

    def members(self) -> int:
        """See `ConsulClient`."""
        return self.known

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def agent() -> Agent:
    """One that answers."""
    return Agent()


def test_the_members_are_asked_for_once_a_minute(agent: Agent) -> None:
    """Every poll wants to know."""
    local = LocalAgent(agent.connect, timer=lambda: agent.now)
    assert [local.members() for _ in range(9)] == [7] * 9
    assert agent.asked == 1

    agent.known, agent.now = 8, 61.0
    assert local.members() == 8


def test_without_an_answer_the_last_number_counts(agent: Agent) -> None:
    """And none is ever raised."""
    local = LocalAgent(agent.connect, timer=lambda: agent.now)
    local.members()
    agent.down, agent.now = True, 61.0

    assert local.members() == 7
    assert LocalAgent(agent.connect).members() == 1


def test_the_node_is_the_agents_unless_it_is_configured(agent: Agent) -> None:
    """It is asked for once."""
    local = LocalAgent(agent.connect)

    assert [local.node(), local.name(), local.known_node] == ["lb1"] * 3
    assert agent.asked == 1
    assert LocalAgent(agent.connect, "other").node() == "other"


def test_a_node_whose_agent_is_silent_has_the_machines_name(agent: Agent) -> None:
    """For what it writes; whoever must know is told."""
    agent.down = True
    local = LocalAgent(agent.connect)

    assert local.name() == socket.gethostname()
    assert local.known_node == ""
    with pytest.raises(ConsulUnavailable):
        local.node()

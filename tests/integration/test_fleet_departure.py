"""A node leaves the fleets that it is not configured for any more, on real Consul."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.departure import Departure
from agentd.fleet.keys import Keys
from agentd.fleet.registration import ensure, service_id
from agentd.journal.journal import Journal
from agentd.journal.memberships import Membership, Memberships
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[str]:
    """A fleet that no other test has."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    yield name
    consul.kv_delete(f"agentd/{name}/", recurse=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Of the node."""
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


class Left:
    """A node that was in a fleet as `lb1`."""

    def __init__(self, consul: ConsulAgent, fleet: str, journal: Journal, *, agent: str = "") -> None:
        self.consul = consul
        self.key = Keys(fleet).node("lb1")
        self.service = service_id(fleet, "lb1")
        self.memberships = Memberships(journal)
        self.membership = Membership(fleet, "dc1", "lb1")
        self.memberships.add(self.membership)
        own = str(consul.get("/v1/agent/self")["Config"]["NodeID"])
        consul.kv_put(self.key, render(Acknowledgement("1.0", agent or own, "boot", 1.0)))
        with_service = ConsulClient(ConsulOptions(address=consul.url))
        ensure(with_service, fleet, "lb1", "127.0.0.1:1")
        with_service.close()
        self.departure = Departure(journal, ConsulOptions(address=consul.url))

    @property
    def registered(self) -> bool:
        """Whether the agent has the service."""
        return self.service in self.consul.get("/v1/agent/services")

    def until_forgotten(self) -> None:
        """Wait until nothing is left to do."""
        wait_until(lambda: not self.memberships.every(), "the membership to be forgotten")


def test_document_and_service_are_taken_back(consul: ConsulAgent, fleet: str, journal: Journal) -> None:
    """And the membership is forgotten only then."""
    node = Left(consul, fleet, journal)

    node.departure.start(None)

    node.until_forgotten()
    assert consul.kv_get(node.key) is None
    assert not node.registered


def test_the_document_of_another_node_with_the_name_stays(
    consul: ConsulAgent, fleet: str, journal: Journal
) -> None:
    """It is told, and not tried again and again."""
    node = Left(consul, fleet, journal, agent="00000000-0000-0000-0000-000000000001")

    with capture_logs() as logs:
        node.departure.start(None)
        node.until_forgotten()

    assert consul.kv_get(node.key) is not None
    assert [one["event"] for one in logs] == ["fleet.not_left"]
    consul.deregister(node.service)


def test_a_fleet_that_moved_to_another_datacenter_keeps_the_service(
    consul: ConsulAgent, fleet: str, journal: Journal
) -> None:
    """Its health check is that of the current membership; only the document goes."""
    node = Left(consul, fleet, journal)
    current = Membership(fleet, "dc2", "lb1")
    node.memberships.add(current)

    node.departure.start(current)

    wait_until(lambda: node.memberships.every() == [current], "the old one to be forgotten")
    assert consul.kv_get(node.key) is None
    assert node.registered
    consul.deregister(node.service)


def test_the_current_membership_is_not_left(consul: ConsulAgent, fleet: str, journal: Journal) -> None:
    """There is nothing to do, and no thread."""
    node = Left(consul, fleet, journal)

    node.departure.start(node.membership)

    assert node.departure._thread is None
    assert consul.kv_get(node.key) is not None
    consul.deregister(node.service)


def test_what_consul_does_not_agree_to_yet_is_tried_again(
    new_consul: Callable[..., ConsulAgent], fleet: str, journal: Journal
) -> None:
    """Also by the next process, if agentd ends before."""
    consul = new_consul()
    node = Left(consul, fleet, journal)
    consul.stop()
    with capture_logs() as logs:
        node.departure.start(None)
        wait_until(lambda: logs, "that to be told")
        node.departure.close()
        consul.start()

        Departure(journal, ConsulOptions(address=consul.url)).start(None)

        node.until_forgotten()
    assert [one["event"] for one in logs] == ["fleet.not_left", "fleet.left"]
    assert consul.kv_get(node.key) is None
    assert not node.registered

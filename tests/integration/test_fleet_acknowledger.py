"""One node's acknowledgements on a real Consul: when they are written, and what keeps them from being."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.acknowledgement import Acknowledgement, Name, Tried
from agentd.fleet.acknowledgement_codec import parse
from agentd.fleet.acknowledger import FAREWELL, Acknowledger
from agentd.fleet.condition import Condition
from agentd.fleet.keys import Keys
from agentd.fleet.options import FleetOptions
from agentd.fleet.registration import SERVICE, ensure, service_id
from agentd.heartbeat import Heartbeats
from agentd.watch.client import AgentInfo, ConsulClient
from agentd.watch.options import ConsulOptions
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until

_STATUS = "http://127.0.0.1:9521"


class Client(ConsulClient):
    """A client of an agent that says it has another name and ID, and that so many others are there."""

    who: AgentInfo

    def self_info(self) -> AgentInfo:
        """As told."""
        return self.who


class One:
    """One acknowledging node, whose thread is not started; its monotonic time moves when a test says so."""

    def __init__(self, consul: ConsulAgent, fleet: str, **options: Any) -> None:  # noqa: ANN401 (of ConsulOptions, or below)
        self.consul = consul
        self.now = 1000.0
        self.generation = 1
        self.live: int | None = None
        self.tried: Tried | None = None
        self.status: str | None = options.pop("status", _STATUS)
        self.members = options.pop("members", 1)
        self.node_id = options.pop("node_id", None)
        section = {"name": fleet, "node": "lb1", **options.pop("section", {})}
        consul_options = ConsulOptions(address=consul.url, **options)
        if consul.token and "token_file" not in options:
            consul_options = consul_options.typed(token=consul.token, verify=True)
        self.options = FleetOptions(**section)
        self.key = Keys(fleet).node(self.options.node or consul.node)
        self._consul_options = consul_options
        self.acknowledger = Acknowledger(
            self.options,
            connect=self._connect,
            look=self._look,
            heartbeat=Heartbeats().register("test"),
            version="1.2.3",
            status=lambda: self.status,
            timer=lambda: self.now,
        )

    def _connect(self) -> ConsulClient:
        if self.node_id is None and self.members == 1:
            return ConsulClient(self._consul_options)
        client = Client(self._consul_options)
        client.who = AgentInfo(
            "lb1", "dc1", "1.8.7", server=True, node_id=self.node_id or "x", members=self.members
        )
        return client

    def _look(self) -> Condition:
        names = {} if self.tried is None else {"block": Name(live=self.live, tried=self.tried)}
        return Condition(self.generation, names, {}, {}, {})

    def turn(self, *, after: float = 0.0) -> None:
        """One turn, so many seconds later."""
        self.now += after
        self.acknowledger.turn()

    @property
    def document(self) -> Acknowledgement | None:
        """What is there."""
        found = self.consul.kv_get(self.key)
        return None if found is None else parse(found)

    @property
    def told(self) -> int:
        """The generation that the document tells."""
        document = self.document
        return document.generation if document else 0


@pytest.fixture
def one(consul: ConsulAgent) -> Iterator[Callable[..., One]]:
    """Make nodes on the shared agent; what they leave there is removed."""
    made: list[One] = []

    def make(fleet: str, **options: Any) -> One:  # noqa: ANN401 (see One)
        made.append(One(consul, fleet, **options))
        return made[-1]

    yield make
    for node in made:
        node.acknowledger._disconnect()
        consul.kv_delete(f"agentd/{node.options.name}/", recurse=True)
        consul.deregister(service_id(node.options.name, "lb1"))


@pytest.fixture
def fleet() -> str:
    """A fleet that no other test has."""
    return f"t-{uuid.uuid4().hex[:12]}"


def test_the_first_is_written_at_once_and_says_who(one: Callable[..., One], fleet: str) -> None:
    """The agent's ID, the boot and the version."""
    node = one(fleet)

    node.turn()

    document = node.document
    assert document is not None
    assert (document.agentd, document.generation) == ("1.2.3", 1)
    assert document.node_id == node.consul.get("/v1/agent/self")["Config"]["NodeID"]
    assert len(document.boot) == 36
    assert abs(document.written - time.time()) < 60


def test_it_is_written_at_once_after_a_quiet_time_and_soon_once_a_second(
    one: Callable[..., One], fleet: str
) -> None:
    """What comes in between is in the next one."""
    node = one(fleet)
    node.turn()
    node.turn(after=10)
    seen = []
    for generation in range(2, 12):
        node.generation = generation
        node.turn(after=0.25)
        seen.append(node.told)

    assert seen == [2, 3, 4, 4, 6, 6, 6, 6, 10, 10]


def test_a_message_that_is_soon_in_force_costs_one_write(one: Callable[..., One], fleet: str) -> None:
    """Not a second one in which it was only tried."""
    node = one(fleet)
    node.live, node.tried = 5, Tried(5, "applied")
    node.turn()
    node.tried = Tried(6)
    node.turn(after=10)
    node.turn(after=0.3)
    waiting = node.acknowledger.standing.writes
    node.live, node.tried = 6, Tried(6, "applied")
    node.turn(after=0.1)

    document = node.document
    assert document is not None
    assert document.names["block"].live == 6
    assert (waiting, node.acknowledger.standing.writes) == (1, 2)


def test_a_message_that_takes_longer_is_told_as_tried(one: Callable[..., One], fleet: str) -> None:
    """And while it goes on, whatever else changes is told at once."""
    node = one(fleet)
    node.live, node.tried = 5, Tried(5, "applied")
    node.turn()
    node.tried = Tried(6, reason="the disk is full")
    node.turn(after=10)
    node.turn(after=0.6)
    document = node.document
    node.generation = 2
    node.turn(after=10)

    assert document is not None
    assert document.names["block"].tried == Tried(6, reason="the disk is full")
    assert node.told == 2


def test_a_large_fleet_writes_less_often(one: Callable[..., One], fleet: str) -> None:
    """At most 300 a second in all."""
    node = one(fleet, members=900, node_id=str(uuid.uuid4()))
    node.turn()
    node.generation = 2
    node.turn(after=2.9)
    before = node.told
    node.turn(after=0.2)

    assert (before, node.told) == (1, 2)


def test_what_has_not_changed_is_not_written(one: Callable[..., One], fleet: str) -> None:
    """Not even when it looks whether its document is still there."""
    node = one(fleet)
    node.turn()
    index = node.consul.get(f"/v1/kv/{node.key}")[0]["ModifyIndex"]
    for _ in range(10):
        node.turn(after=30)

    assert node.consul.get(f"/v1/kv/{node.key}")[0]["ModifyIndex"] == index
    assert node.acknowledger.standing.writes == 1


def test_a_document_that_was_removed_is_written_again(one: Callable[..., One], fleet: str) -> None:
    """By a wiped store, or `fleet forget` of a node that lives."""
    node = one(fleet)
    node.turn()
    node.consul.kv_delete(node.key)

    node.turn(after=80)

    assert node.told == 1


def test_junk_in_its_place_is_replaced(one: Callable[..., One], fleet: str) -> None:
    """It is nobody's document."""
    node = one(fleet)
    node.consul.kv_put(node.key, b"\xff" * 1000)

    node.turn()

    assert node.told == 1


def test_a_restarted_node_goes_on_with_its_document(one: Callable[..., One], fleet: str) -> None:
    """It says no longer that agentd was stopped."""
    first = one(fleet)
    first.turn()
    first.acknowledger._farewell = True
    first.acknowledger._say_farewell()
    stopped = first.document
    second = one(fleet)

    second.turn()

    again = second.document
    assert stopped is not None
    assert stopped.stopped is not None
    assert again is not None
    assert again.stopped is None


def catalogue(consul: ConsulAgent, node_id: str, name: str) -> None:
    """Enter a node."""
    consul.put("/v1/catalog/register", {"Node": name, "ID": node_id, "Address": "127.0.0.1"})


@pytest.fixture
def two(one: Callable[..., One], fleet: str) -> Iterator[tuple[One, One]]:
    """Two nodes of one name, each in the catalogue."""
    ids = [str(uuid.uuid4()) for _ in range(2)]
    nodes = [one(fleet, node_id=each) for each in ids]
    for each in ids:
        catalogue(nodes[0].consul, each, f"{fleet}-{each}")
    yield nodes[0], nodes[1]
    for each in ids:
        nodes[0].consul.put("/v1/catalog/deregister", {"Node": f"{fleet}-{each}"})


def test_of_two_nodes_of_one_name_the_second_says_so(two: tuple[One, One]) -> None:
    """And does not write, however often it looks."""
    first, second = two
    first.turn()
    second.generation = 7

    for _ in range(5):
        second.turn(after=200)

    standing = second.acknowledger.standing
    assert first.told == 1
    assert (standing.name_taken, standing.writes) == (True, 0)
    assert "set a different fleet.node on one of them" in standing.trouble
    assert f"`agentd fleet forget {first.options.node}`" in standing.trouble


def test_who_loses_its_document_to_another_does_not_take_it_back(two: tuple[One, One]) -> None:
    """Whichever of the two that is."""
    first, second = two
    first.turn()
    first.consul.kv_delete(first.key)
    second.turn()
    second_wrote = second.told
    first.generation = 3

    for _ in range(5):
        first.turn(after=200)
        second.turn(after=200)

    document = first.document
    assert second_wrote == 1
    assert document is not None
    assert document.node_id == second.node_id
    assert first.acknowledger.standing.name_taken
    assert not second.acknowledger.standing.name_taken


def test_of_two_daemons_of_one_name_at_one_agent_the_first_says_so(
    one: Callable[..., One], fleet: str
) -> None:
    """Such as containers that use the agent of their machine. Who starts again takes over what it left."""
    first, second = one(fleet), one(fleet, status="127.0.0.1:9522")
    second.acknowledger._own.instance = "second"
    first.turn()
    second.generation = 7
    second.turn()
    for at in range(4):
        first.generation = at + 10
        first.turn(after=200)
        second.turn(after=200)
    service = registered(second)
    again = one(fleet)
    again.acknowledger._own.instance = "again"
    again.turn()

    assert first.acknowledger.standing.name_taken
    assert (
        "another daemon at the same Consul agent acknowledges as lb1" in first.acknowledger.standing.trouble
    )
    assert (second.acknowledger.standing.writes, second.acknowledger.standing.name_taken) == (1, False)
    assert service is not None
    assert service["Meta"] == {"check": "127.0.0.1:9522"}
    assert again.told == 1


def test_who_lost_its_name_has_it_again_once_the_other_has_stopped(
    one: Callable[..., One], fleet: str
) -> None:
    """In good order."""
    first, second = one(fleet), one(fleet, status="127.0.0.1:9522")
    second.acknowledger._own.instance = "second"
    first.turn()
    second.turn()
    first.turn(after=200)
    lost = first.acknowledger.standing.name_taken
    second.acknowledger._farewell = True
    second.acknowledger._say_farewell()

    first.turn(after=200)

    assert lost
    assert not first.acknowledger.standing.name_taken
    assert first.document is not None
    assert first.document.stopped is None


def test_a_name_is_free_again_once_the_other_node_is_gone(two: tuple[One, One]) -> None:
    """Its agent is no longer in the catalogue: a machine was replaced, or its agent made anew."""
    first, second = two
    first.turn()
    second.turn()
    taken = second.acknowledger.standing.name_taken
    first.consul.put("/v1/catalog/deregister", {"Node": f"{first.options.name}-{first.node_id}"})

    second.turn(after=200)

    document = second.document
    assert taken
    assert document is not None
    assert document.node_id == second.node_id
    assert not second.acknowledger.standing.name_taken


def test_what_a_token_may_not_write_is_kept_and_the_rule_told(
    new_consul: Callable[..., ConsulAgent],
    directory: Path,
    fleet: str,
) -> None:
    """Once the policy has it, what is the case then is written."""
    agent = new_consul(acl=True)
    file = directory / "token"
    file.write_text(agent.make_token('agent_prefix "" { policy = "read" }'))
    node = One(agent, fleet, token_file=file)
    node.turn()
    refused = node.acknowledger.standing
    node.generation = 2
    rules = f'key "{node.key}" {{ policy = "write" }} agent_prefix "" {{ policy = "read" }}'
    file.write_text(agent.make_token(rules))

    node.turn(after=61)

    assert f'key "{node.key}" {{ policy = "write" }}' in refused.trouble
    assert node.told == 2
    assert node.acknowledger.standing.trouble == ""
    assert 'service "agentd" { policy = "write" }' in node.acknowledger.standing.unregistered
    node.acknowledger._disconnect()


def test_who_may_not_acknowledge_is_registered_all_the_same(
    new_consul: Callable[..., ConsulAgent], directory: Path, fleet: str
) -> None:
    """So that `agentd fleet` tells it from a node without agentd."""
    agent = new_consul(acl=True)
    file = directory / "token"
    file.write_text(
        agent.make_token('agent_prefix "" { policy = "read" } service "agentd" { policy = "write" }')
    )
    node = One(agent, fleet, token_file=file)

    node.turn()

    assert node.document is None
    assert registered(node) is not None
    node.acknowledger._disconnect()


def test_while_consul_is_away_it_is_kept(new_consul: Callable[..., ConsulAgent], fleet: str) -> None:
    """And written when it is back."""
    agent = new_consul()
    node = One(agent, fleet)
    node.turn()
    agent.stop()
    node.generation = 2
    node.turn(after=10)
    away = node.acknowledger.standing.trouble
    agent.start()

    def written() -> bool:
        node.turn(after=40)
        return node.told == 2

    wait_until(written, "the document")
    assert away
    assert node.acknowledger.standing.trouble == ""
    node.acknowledger._disconnect()


def test_a_stop_says_so_and_is_not_held_up(new_consul: Callable[..., ConsulAgent], fleet: str) -> None:
    """Neither by an agent that does not answer."""
    agent = new_consul()
    good, held = One(agent, fleet), One(agent, f"{fleet}-2")
    for node in (good, held):
        node.acknowledger._timer = time.monotonic
        node.acknowledger.start()
        wait_until(lambda node=node: node.told, "the document")  # type: ignore[misc] # of a loop

    good.acknowledger.stop(farewell=True)
    agent.freeze()
    began = time.monotonic()
    held.acknowledger.stop(farewell=True)
    took = time.monotonic() - began
    agent.thaw()

    document = good.document
    assert document is not None
    assert document.stopped is not None
    assert took < 20 * FAREWELL  # it would wait for as long as the agent is frozen


def test_an_end_that_is_no_stop_says_nothing(consul: ConsulAgent, fleet: str) -> None:
    """Such as a reload of the configuration."""
    node = One(consul, fleet)
    node.acknowledger._timer = time.monotonic
    node.acknowledger.start()
    wait_until(lambda: node.told, "the document")

    node.acknowledger.stop()

    document = node.document
    assert document is not None
    assert document.stopped is None
    consul.kv_delete(f"agentd/{fleet}/", recurse=True)
    consul.deregister(service_id(fleet, "lb1"))


def registered(node: One) -> dict[str, Any] | None:
    """The service, as the agent has it."""
    services: dict[str, Any] = node.consul.get("/v1/agent/services")
    return services.get(service_id(node.options.name, "lb1"))


def test_the_service_is_registered_with_a_check_of_the_status_page(
    one: Callable[..., One], fleet: str
) -> None:
    """And again when the agent forgot it, or when it is another page."""
    node = one(fleet)
    node.turn()
    first = registered(node)
    node.consul.deregister(service_id(fleet, "lb1"))
    node.turn(after=80)
    again = registered(node)
    node.status = "[::1]:9999"
    node.turn(after=80)
    moved = registered(node)

    assert first is not None
    assert (first["Service"], first["Tags"], first["Port"]) == ("agentd", [fleet], 0)
    assert again is not None
    assert moved is not None
    assert moved["Meta"] == {"check": "[::1]:9999"}
    checks = node.consul.get("/v1/agent/checks")
    (check,) = (one for one in checks.values() if one["ServiceID"] == service_id(fleet, "lb1"))
    assert check["Type"] == "http"


def test_a_daemon_under_another_name_takes_the_old_service_back(one: Callable[..., One], fleet: str) -> None:
    """Its health would be that of a node which is not there any more; another daemon's service stays."""
    before, other = one(fleet), one(fleet, section={"node": "lb2"}, status="127.0.0.1:9522")
    before.turn()
    other.turn()

    renamed = one(fleet, section={"node": "lb3"})
    renamed.turn()

    services = before.consul.get("/v1/agent/services")
    assert {name for name in services if fleet in name} == {
        service_id(fleet, "lb2"),
        service_id(fleet, "lb3"),
    }
    for name in ("lb2", "lb3"):
        before.consul.deregister(service_id(fleet, name))


@pytest.mark.parametrize("options", [{"section": {"service": False}}, {"status": None}])
def test_it_is_not_registered_where_it_must_not_or_cannot_be(
    one: Callable[..., One], fleet: str, options: dict[str, Any]
) -> None:
    """What was registered before is taken back."""
    before = one(fleet)
    before.turn()
    node = one(fleet, **options)

    node.turn()

    assert registered(node) is None
    reason = node.acknowledger.standing.unregistered
    assert bool(reason) == ("status" in options)


def test_a_daemon_that_has_just_started_is_not_taken_for_silent(one: Callable[..., One], fleet: str) -> None:
    """The check that failed while nothing answered does not say so until its next turn."""
    node, service = one(fleet), service_id(fleet, "lb1")
    check = {"HTTP": "http://127.0.0.1:1/", "Interval": "1h", "Status": "critical"}
    node.consul.put("/v1/agent/service/register", {"ID": service, "Name": SERVICE, "Check": check})
    node.turn()
    assert node.consul.get("/v1/agent/checks")[f"service:{service}"]["Status"] == "passing"


def test_an_agent_that_restarts_keeps_the_service(new_consul: Callable[..., ConsulAgent], fleet: str) -> None:
    """It is not registered twice."""
    agent = new_consul()
    node = One(agent, fleet)
    node.turn()
    agent.stop()
    agent.start()
    with closing(ConsulClient(ConsulOptions(address=agent.url))) as client:
        assert not ensure(client, fleet, "lb1", _STATUS)
    assert registered(node) is not None
    node.acknowledger._disconnect()

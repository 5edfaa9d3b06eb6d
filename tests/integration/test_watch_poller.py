"""Pollers against a real agent that is stopped, started, emptied and closed to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.poller import Poller
from agentd.watch.queries import EventQuery, KeyPrefixQuery, KeyQuery, ServiceQuery
from agentd.watch.query import Query, Snapshot
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.waiting import PATIENCE, wait_until


class Watched:
    """A running poller and what it delivered. Clear `gate` to hold it inside its next delivery."""

    def __init__(self, query: Query, address: str, **options: Any) -> None:  # noqa: ANN401 - ConsulOptions' own
        self.snapshots: list[Snapshot] = []
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()
        settings = replace(ConsulOptions(address=address, wait=2.0), **options)
        self.poller = Poller(query, lambda: ConsulClient(settings), self._take, stop=threading.Event())

    def _take(self, snapshot: Snapshot) -> None:
        self.inside.set()
        self.gate.wait(PATIENCE)
        self.snapshots.append(snapshot)

    @property
    def raws(self) -> list[Any]:
        """What was delivered."""
        return [change.raw for snapshot in list(self.snapshots) for change in snapshot.changes]

    def end(self) -> None:
        """End the poller, so that its status speaks of the last answer: that is told after the delivery."""
        self.poller.close()
        assert self.poller.join(PATIENCE)

    def until(self, probe: Callable[[Watched], object], what: str) -> None:
        """Wait until `probe` returns something true."""
        wait_until(lambda: probe(self), what)


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """Start pollers: `watch(query, address)`. They are ended, and waited for, at the end."""
    with ExitStack() as stack:

        def start(query: Query, address: str, **options: Any) -> Watched:  # noqa: ANN401 - as above
            watched = Watched(query, address, **options)
            stack.callback(watched.poller.join, PATIENCE)
            stack.callback(watched.gate.set)
            stack.callback(watched.poller.close)
            watched.poller.start()
            return watched

        yield start


Watch = Callable[..., Watched]


def test_a_key_is_followed_from_nothing_to_nothing(
    consul: ConsulAgent, watch: Watch, key_prefix: str
) -> None:
    """Absent at the start: no state; written, written again, deleted: three."""
    key = key_prefix + "k"
    watched = watch(KeyQuery(key), consul.url)
    watched.until(lambda one: one.poller.status.held, "the absence to be noticed")
    consul.kv_put(key, b"a")
    watched.until(lambda one: len(one.raws) == 1, "the key")
    consul.kv_put(key, b"b")
    watched.until(lambda one: len(one.raws) == 2, "its new value")
    consul.kv_delete(key)
    watched.until(lambda one: len(one.raws) == 3, "the deletion")
    assert [raw and raw["Value"] for raw in watched.raws] == ["YQ==", "Yg==", None]


def test_a_prefix_that_is_emptied_is_delivered(consul: ConsulAgent, watch: Watch, key_prefix: str) -> None:
    """With ACLs off there is nothing else that silence could mean."""
    consul.kv_put(key_prefix + "k", b"a")
    watched = watch(KeyPrefixQuery(key_prefix), consul.url)
    watched.until(lambda one: len(one.raws) == 1, "the keys")
    consul.kv_delete(key_prefix, recurse=True)
    watched.until(lambda one: len(one.raws) == 2, "the deletion")
    assert watched.raws[1] is None


def test_a_service_loses_its_last_instance(consul: ConsulAgent, watch: Watch) -> None:
    """It fails its check, and the state becomes empty."""
    consul.register("lonely", 80)
    watched = watch(ServiceQuery("lonely"), consul.url)
    watched.until(lambda one: len(one.raws) == 1, "the instance")
    consul.set_status("lonely", "critical")
    watched.until(lambda one: len(one.raws) == 2, "the loss")
    assert watched.raws[1] == []
    consul.deregister("lonely")


def test_an_agent_that_is_down_at_the_start_is_waited_for(directory: Path, watch: Watch) -> None:
    """Promise 6: the poller starts, says so, and goes on when the agent is there."""
    require("consul")
    agent = ConsulAgent(directory)
    watched = watch(EventQuery(), agent.url)
    watched.until(lambda one: one.poller.status.error, "the error")
    assert "no Consul agent listens" in str(watched.poller.status.error)
    try:
        agent.start()
        identity = agent.fire("late")
        watched.until(lambda one: one.raws, "the event")
    finally:
        agent.stop()
    assert [raw["ID"] for raw in watched.raws] == [identity]


def test_an_agent_restarted_in_mid_poll_changes_nothing(
    new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """Same port, data kept: nothing is delivered again or emptied, and what comes after is seen."""
    agent = new_consul()
    agent.kv_put("k", b"a")
    first = agent.fire("first")
    key, events = watch(KeyQuery("k"), agent.url), watch(EventQuery(), agent.url)
    key.until(lambda one: one.raws, "the key")
    events.until(lambda one: one.raws, "the event")
    agent.stop()
    for watched in (key, events):
        watched.until(lambda one: one.poller.status.error, "the error")
    agent.start()
    second = agent.fire("second")
    agent.kv_put("k", b"b")
    key.until(lambda one: len(one.raws) == 2, "the new value")
    events.until(lambda one: len(one.raws) == 2, "the new event")
    key.end()
    events.end()
    assert [raw["Value"] for raw in key.raws] == ["YQ==", "Yg=="]
    assert [raw["ID"] for raw in events.raws] == [first, second]
    # A restarted agent sets Lamport time one ahead, so the estimate may be one too high.
    assert events.poller.status.missed <= 1
    assert (key.poller.status.error, key.poller.status.held) == (None, None)


def test_an_agent_that_lost_its_data_empties_nothing(
    directory: Path, new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """Promise 6: a Consul that begins anew has no keys, and that is not believed until it has."""
    agent = new_consul()
    for value in range(30):
        agent.kv_put("k", b"%d" % value)
    key = watch(KeyQuery("k"), agent.url)
    key.until(lambda one: one.raws, "the key")
    agent.stop()
    (agent.directory / "data").rename(directory / "lost")
    agent.start()
    key.until(lambda one: "data may be lost" in str(one.poller.status.held), "the loss to be noticed")
    agent.kv_put("k", b"again")
    key.until(lambda one: len(one.raws) == 2, "the new value")
    assert None not in key.raws


def test_300_events_of_another_name_between_two_polls_are_counted(
    new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """The ring holds 256; the others are gone, which is counted, and the newest arrive."""
    agent = new_consul()
    agent.fire("first")
    watched = watch(EventQuery(), agent.url)
    watched.until(lambda one: one.raws, "the first event")
    watched.inside.clear()
    watched.gate.clear()
    agent.fire("held")  # the poller takes this one and is kept from polling
    assert watched.inside.wait(PATIENCE)
    fired = [agent.fire("other") for _ in range(300)]
    wait_until(lambda: [one["ID"] for one in agent.events()] == fired[-256:], "all 300 to be in the ring")
    watched.gate.set()
    watched.until(lambda one: one.poller.status.missed, "the ring to be delivered, and then the loss told")
    assert watched.poller.status.missed == 300 - 256
    assert [raw["ID"] for raw in watched.raws[2:]] == fired[-256:]


def test_every_event_of_a_burst_is_delivered_once(
    new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """200 events as fast as they can be fired."""
    agent = new_consul()
    watched = watch(EventQuery(), agent.url)
    watched.until(lambda one: one.poller.status.answers, "contact")
    fired = [agent.fire("burst") for _ in range(200)]
    watched.until(lambda one: len(one.raws) >= 200, "the events")
    watched.end()
    assert sorted(raw["ID"] for raw in watched.raws) == sorted(fired)
    assert watched.poller.status.missed == 0


def test_a_token_that_loses_its_rights_empties_nothing(
    directory: Path, new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """Under ACL deny the answer becomes `200 []`: held, named, and released when the right is back."""
    agent = new_consul(acl=True)
    agent.register("web", 80)
    rules = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
    policy = agent.put("/v1/acl/policy", {"Name": "reader", "Rules": rules})
    token = agent.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})
    file = directory / "token"
    file.write_text(token["SecretID"])
    wait_until(lambda: agent.get("/v1/health/service/web"), "the service")
    watched = watch(ServiceQuery("web"), agent.url, token_file=file)
    watched.until(lambda one: one.raws, "the service")
    agent.put(f"/v1/acl/policy/{policy['ID']}", {"ID": policy["ID"], "Name": "reader", "Rules": ""})
    watched.until(lambda one: one.poller.status.held, "the loss to be noticed")
    assert "no right to read service 'web'" in str(watched.poller.status.held)
    agent.put(f"/v1/acl/policy/{policy['ID']}", {"ID": policy["ID"], "Name": "reader", "Rules": rules})
    watched.until(lambda one: not one.poller.status.held, "the right to be back")
    assert [] not in watched.raws


def test_a_poll_without_a_token_under_deny_says_what_is_missing(
    new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """Events stay an empty list for ever: that is a reason to speak, not to wait."""
    agent = new_consul(acl=True)
    watched = watch(EventQuery(), agent.url)
    watched.until(lambda one: one.poller.status.held, "the reason")
    assert watched.poller.status.held == "event list is empty: the token has no right to read event ''"


def test_a_node_that_is_cut_off_keeps_what_it_has(
    directory: Path, new_consul: Callable[..., ConsulAgent], watch: Watch
) -> None:
    """Its agent answers while all servers are gone: the state stays, events go on, and both recover."""
    server = new_consul(acl=True)
    agent = new_consul(node="node2", address="127.0.0.2", join=server, acl=True)
    file = directory / "token"
    file.write_text(str(server.token))
    agent.register("web", 80)
    fired = agent.fire("before")
    service = watch(ServiceQuery("web"), agent.url, token_file=file)
    events = watch(EventQuery(), agent.url, token_file=file)
    service.until(lambda one: one.raws, "the service")
    events.until(lambda one: one.raws, "the event")
    server.stop()
    service.until(lambda one: one.poller.status.error, "the error")
    answers = events.poller.status.answers
    events.until(lambda one: one.poller.status.answers > answers, "the events to be polled on")
    server.start()
    service.until(lambda one: not one.poller.status.error, "the recovery")
    assert [raw["ID"] for raw in events.raws] == [fired]
    assert [] not in service.raws


def test_closing_ends_a_poll_at_once(consul: ConsulAgent, watch: Watch) -> None:
    """A wait of a minute does not hold up the end."""
    watched = watch(EventQuery(), consul.url, wait=60.0)
    watched.until(lambda one: one.poller.status.answers, "contact")
    time.sleep(0.1)  # into the blocking request
    watched.poller.close()
    assert watched.poller.join(50)

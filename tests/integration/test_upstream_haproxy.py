"""The HAProxy driver on a real HAProxy: slots, weights, states, and what an operator does meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.testing import HandlerHarness, instance, service
from handlers.nginx_upstream.handler import NginxUpstream
from tests.servers.backend import Backend
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.haproxy import HAProxy
from tests.servers.site import Site
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
SLOTS = "server-template slot 3 127.0.0.1:1 disabled"


@pytest.fixture
def new_haproxy(directory: Path) -> Iterator[Callable[..., HAProxy]]:
    """Make one HAProxy, started."""
    require("haproxy")
    made: list[HAProxy] = []

    def make(*servers: str) -> HAProxy:
        made.append(HAProxy(directory, *(servers or (SLOTS,))).start())
        return made[-1]

    yield make
    for haproxy in made:
        haproxy.stop()


@pytest.fixture
def haproxy(new_haproxy: Callable[..., HAProxy]) -> HAProxy:
    """With three free slots."""
    return new_haproxy()


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    """Four that answer."""
    made = [Backend().start() for _ in range(4)]
    yield made
    for backend in made:
        backend.stop()


def bench_of(haproxy: HAProxy, **options: object) -> HandlerHarness:
    """The handler that drives it, with its initial files."""
    given = {"upstream": "api", "driver": "haproxy", "interface": haproxy.interface}
    harness = HandlerHarness(NginxUpstream, given | {"networks": ["127.0.0.0/8"]} | options)
    harness.initial()
    return harness


def hand(harness: HandlerHarness, *backends: Backend, **weights: int) -> None:
    """The state of the service: these instances; `weights` by number, as `_0=3`."""
    raw = [
        instance(one.host, one.port, Weights={"Passing": weights.get(f"_{at}", 1), "Warning": 1})
        for at, one in enumerate(backends)
    ]
    harness.handle(service("api", raw))


def serving(haproxy: HAProxy) -> set[int]:
    """The ports that answer."""
    return {int(port) for port in haproxy.via(12)}


def ports(*backends: Backend) -> set[int]:
    """Their ports."""
    return {backend.port for backend in backends}


def slot_of(haproxy: HAProxy, backend: Backend) -> str:
    """The name of the slot that the backend is in."""
    rows = [line.split() for line in haproxy.tell("show servers state api").splitlines()]
    return next(row[3] for row in rows if len(row) > 18 and row[18] == str(backend.port))


def weight_of(haproxy: HAProxy, backend: Backend) -> int:
    """The weight of the slot that the backend is in."""
    rows = [line.split() for line in haproxy.tell("show servers state api").splitlines()]
    return int(next(row[7] for row in rows if len(row) > 18 and row[18] == str(backend.port)))


def operate(haproxy: HAProxy, backend: Backend, state: str) -> None:
    """Set a server's state as an operator does."""
    haproxy.tell(f"set server api/{slot_of(haproxy, backend)} state {state}")


def test_instances_on_loopback_get_no_slot(haproxy: HAProxy, backends: list[Backend]) -> None:
    """Unless the operator allows it; the stats socket's own machine is what they would reach."""
    harness = bench_of(haproxy, networks=[])

    hand(harness, *backends)

    assert set(haproxy.via(4)) == {"503"}
    assert harness.store["gauges"]["upstream_instances_refused"] == len(backends)


def test_a_socket_of_a_lower_level_is_told(haproxy: HAProxy, backends: list[Backend]) -> None:
    """In `status`, with what HAProxy needs; `check` says that anybody may connect."""
    haproxy.socket.parent.chmod(0o755)
    harness = bench_of(haproxy, interface=haproxy.operator)

    hand(harness, backends[0])

    assert "the socket needs `level admin`" in harness.store["status"][0]["trouble"]
    (doubt,) = harness.preflight()
    assert (doubt.part, doubt.warning) == ("interface", True)
    assert "`mode 660`" in doubt.reason
    assert list(bench_of(haproxy).preflight()) == []


def test_servers_take_free_slots(haproxy: HAProxy, backends: list[Backend]) -> None:
    """They serve, no file is written, and nothing is done twice."""
    harness = bench_of(haproxy)

    hand(harness, *backends[:2])

    assert serving(haproxy) == ports(*backends[:2])
    assert harness.files == {}
    assert [line.fields["changes"] for line in harness.log if line.event == "upstream.set"] == [4]


def test_a_server_that_goes_frees_its_slot(haproxy: HAProxy, backends: list[Backend]) -> None:
    """The next one takes it."""
    first, second, third, fourth = backends
    harness = bench_of(haproxy)
    hand(harness, first, second, third)

    hand(harness, first, second)
    without = serving(haproxy)
    hand(harness, first, second, fourth)

    assert without == ports(first, second)
    assert serving(haproxy) == ports(first, second, fourth)
    assert "agentd1" not in haproxy.tell("show servers state api")


def test_where_slots_run_out_servers_are_added(
    new_haproxy: Callable[..., HAProxy], backends: list[Backend]
) -> None:
    """HAProxy 2.6 takes new ones at run time."""
    haproxy = new_haproxy("server-template slot 1 127.0.0.1:1 disabled")
    harness = bench_of(haproxy)

    hand(harness, *backends)

    assert serving(haproxy) == ports(*backends)
    assert slot_of(haproxy, backends[-1]).startswith(("agentd", "slot"))
    assert harness.store["gauges"]["upstream_in_step"] == 1


def test_weights_are_set(haproxy: HAProxy, backends: list[Backend]) -> None:
    """And changed."""
    first, second = backends[:2]
    harness = bench_of(haproxy)
    hand(harness, first, second)

    hand(harness, first, second, _0=3)

    assert Counter(haproxy.via(8)) == {str(first.port): 6, str(second.port): 2}


def test_a_weight_above_haproxys_own_limit_counts_as_that(haproxy: HAProxy, backends: list[Backend]) -> None:
    """Otherwise one instance that asks for it would keep all others from being set."""
    first, second = backends[:2]
    harness = bench_of(haproxy, max_weight=65535)

    hand(harness, first, second, _0=60_000)

    assert serving(haproxy) >= ports(first)
    assert (weight_of(haproxy, first), weight_of(haproxy, second)) == (256, 1)
    assert harness.store["gauges"]["upstream_in_step"] == 1


@pytest.mark.parametrize("state", ["maint", "drain"])
def test_a_server_taken_out_stays_out(haproxy: HAProxy, backends: list[Backend], state: str) -> None:
    """In the state that the operator chose, over changes and a restart of HAProxy and of agentd."""
    first, second, third = backends[:3]
    harness = bench_of(haproxy)
    hand(harness, first, second)
    operate(haproxy, first, state)
    harness.advance(2)

    hand(harness, first, second, third)
    changed = serving(haproxy)
    haproxy.stop()
    haproxy.start()
    harness.advance(2)
    restarted = serving(haproxy)
    harness.restart()
    harness.initial()
    harness.advance(2)

    assert changed == restarted == serving(haproxy) == ports(second, third)
    assert harness.store["down"] == {first.address: state}


@pytest.mark.parametrize("weight", [0, 7])
def test_a_weight_that_an_operator_set_stays(haproxy: HAProxy, backends: list[Backend], weight: int) -> None:
    """Over another weight in Consul, a restart of HAProxy, and one of agentd; until it is Consul's."""
    first, second = backends[:2]
    harness = bench_of(haproxy)
    hand(harness, first, second, _0=3)
    haproxy.tell(f"set server api/{slot_of(haproxy, first)} weight {weight}")
    harness.advance(2)

    hand(harness, first, second, _0=4)
    changed = weight_of(haproxy, first)
    haproxy.stop()
    haproxy.start()
    harness.advance(2)
    restarted = weight_of(haproxy, first)
    harness.restart()
    harness.initial()
    harness.advance(2)
    haproxy.tell(f"set server api/{slot_of(haproxy, first)} weight 4")
    harness.advance(2)
    hand(harness, first, second, _0=5)

    assert changed == restarted == weight
    assert weight_of(haproxy, first) == 5
    assert harness.verify().drift == ()


def test_a_server_put_back_is_back(haproxy: HAProxy, backends: list[Backend]) -> None:
    """Ready means ready."""
    first, second = backends[:2]
    harness = bench_of(haproxy)
    hand(harness, first, second)
    operate(haproxy, first, "maint")
    harness.advance(2)

    operate(haproxy, first, "ready")
    harness.advance(2)

    assert harness.store["down"] == {}
    assert serving(haproxy) == ports(first, second)


def test_what_differs_is_mended(haproxy: HAProxy, backends: list[Backend]) -> None:
    """A server that somebody moved elsewhere comes back."""
    first, second, third = backends[:3]
    harness = bench_of(haproxy)
    hand(harness, first, second)
    haproxy.tell(f"set server api/{slot_of(haproxy, first)} addr {third.host} port {third.port}")

    harness.advance(2)

    assert serving(haproxy) == ports(first, second)


def test_servers_of_its_own_configuration_are_known_by_their_address(
    new_haproxy: Callable[..., HAProxy], backends: list[Backend]
) -> None:
    """They keep their names, and the maintenance in which agentd finds them."""
    first, second = backends[:2]
    haproxy = new_haproxy(f"server web1 {first.address}", f"server web2 {second.address}")
    haproxy.tell("set server api/web2 state maint")
    harness = bench_of(haproxy)

    hand(harness, first, second)

    assert slot_of(haproxy, first) == "web1"
    assert harness.store["down"] == {second.address: "maint"}
    assert serving(haproxy) == ports(first)


def test_a_backend_that_is_not_there_is_told(haproxy: HAProxy, backends: list[Backend]) -> None:
    """With its name."""
    harness = bench_of(haproxy, upstream="nope")

    hand(harness, backends[0])

    reasons = [line.fields["reason"] for line in harness.log if line.level == "error"]
    assert len(reasons) == 1
    assert "no backend nope" in reasons[0]


def test_a_service_in_consul_reaches_haproxy(
    new_node: Callable[..., Node], consul: ConsulAgent, haproxy: HAProxy
) -> None:
    """The whole way: registered, served; deregistered, gone."""
    site = Site(new_node, consul, driver="haproxy", interface=haproxy.interface)
    first, second = site.backend(), site.backend()
    for backend in (first, second):
        site.register(backend)
    site.node.nginx.configure()

    site.node.agentd.start()
    wait_until(lambda: serving_or_none(haproxy) == ports(first, second), "both to serve")
    site.deregister(first)
    wait_until(lambda: serving_or_none(haproxy) == ports(second), "one to serve")
    site.close()


def serving_or_none(haproxy: HAProxy) -> set[int]:
    """The ports that answer; 503 while nobody does."""
    return {int(port) for port in haproxy.via(6)}

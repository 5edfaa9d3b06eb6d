"""The HAProxy driver on a real HAProxy: slots, weights, states, and what an operator does meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.testing import HandlerBench, instance, service
from handlers.nginx_upstream import NginxUpstream
from tests.integration.conftest import require
from tests.servers.backend import Backend
from tests.servers.consul import ConsulAgent
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


def bench_of(haproxy: HAProxy, **options: object) -> HandlerBench:
    """The handler that drives it, with its initial files."""
    bench = HandlerBench(
        NginxUpstream, {"upstream": "api", "driver": "haproxy", "interface": haproxy.interface} | options
    )
    bench.initial()
    return bench


def hand(bench: HandlerBench, *backends: Backend, **weights: int) -> None:
    """The state of the service: these instances; `weights` by number, as `_0=3`."""
    raw = [
        instance(one.host, one.port, Weights={"Passing": weights.get(f"_{at}", 1), "Warning": 1})
        for at, one in enumerate(backends)
    ]
    bench.handle(service("api", raw))


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


def operate(haproxy: HAProxy, backend: Backend, state: str) -> None:
    """Set a server's state as an operator does."""
    haproxy.tell(f"set server api/{slot_of(haproxy, backend)} state {state}")


def test_servers_take_free_slots(haproxy: HAProxy, backends: list[Backend]) -> None:
    """They serve, no file is written, and nothing is done twice."""
    bench = bench_of(haproxy)

    hand(bench, *backends[:2])

    assert serving(haproxy) == ports(*backends[:2])
    assert bench.files == {}
    assert [line.fields["changes"] for line in bench.log if line.event == "upstream.set"] == [4]


def test_a_server_that_goes_frees_its_slot(haproxy: HAProxy, backends: list[Backend]) -> None:
    """The next one takes it."""
    first, second, third, fourth = backends
    bench = bench_of(haproxy)
    hand(bench, first, second, third)

    hand(bench, first, second)
    without = serving(haproxy)
    hand(bench, first, second, fourth)

    assert without == ports(first, second)
    assert serving(haproxy) == ports(first, second, fourth)
    assert "agentd1" not in haproxy.tell("show servers state api")


def test_where_slots_run_out_servers_are_added(
    new_haproxy: Callable[..., HAProxy], backends: list[Backend]
) -> None:
    """HAProxy 2.6 takes new ones at run time."""
    haproxy = new_haproxy("server-template slot 1 127.0.0.1:1 disabled")
    bench = bench_of(haproxy)

    hand(bench, *backends)

    assert serving(haproxy) == ports(*backends)
    assert slot_of(haproxy, backends[-1]).startswith(("agentd", "slot"))
    assert bench.store["gauges"]["upstream_in_step"] == 1


def test_weights_are_set(haproxy: HAProxy, backends: list[Backend]) -> None:
    """And changed."""
    first, second = backends[:2]
    bench = bench_of(haproxy)
    hand(bench, first, second)

    hand(bench, first, second, _0=3)

    assert Counter(haproxy.via(8)) == {str(first.port): 6, str(second.port): 2}


@pytest.mark.parametrize("state", ["maint", "drain"])
def test_a_server_taken_out_stays_out(haproxy: HAProxy, backends: list[Backend], state: str) -> None:
    """In the state that the operator chose, over changes and a restart of HAProxy and of agentd."""
    first, second, third = backends[:3]
    bench = bench_of(haproxy)
    hand(bench, first, second)
    operate(haproxy, first, state)
    bench.advance(2)

    hand(bench, first, second, third)
    changed = serving(haproxy)
    haproxy.stop()
    haproxy.start()
    bench.advance(2)
    restarted = serving(haproxy)
    bench.restart()
    bench.initial()
    bench.advance(2)

    assert changed == restarted == serving(haproxy) == ports(second, third)
    assert bench.store["down"] == {first.address: state}


def test_a_server_put_back_is_back(haproxy: HAProxy, backends: list[Backend]) -> None:
    """Ready means ready."""
    first, second = backends[:2]
    bench = bench_of(haproxy)
    hand(bench, first, second)
    operate(haproxy, first, "maint")
    bench.advance(2)

    operate(haproxy, first, "ready")
    bench.advance(2)

    assert bench.store["down"] == {}
    assert serving(haproxy) == ports(first, second)


def test_what_differs_is_mended(haproxy: HAProxy, backends: list[Backend]) -> None:
    """A server that somebody moved elsewhere comes back."""
    first, second, third = backends[:3]
    bench = bench_of(haproxy)
    hand(bench, first, second)
    haproxy.tell(f"set server api/{slot_of(haproxy, first)} addr {third.host} port {third.port}")

    bench.advance(2)

    assert serving(haproxy) == ports(first, second)


def test_servers_of_its_own_configuration_are_known_by_their_address(
    new_haproxy: Callable[..., HAProxy], backends: list[Backend]
) -> None:
    """They keep their names, and the maintenance in which agentd finds them."""
    first, second = backends[:2]
    haproxy = new_haproxy(f"server web1 {first.address}", f"server web2 {second.address}")
    haproxy.tell("set server api/web2 state maint")
    bench = bench_of(haproxy)

    hand(bench, first, second)

    assert slot_of(haproxy, first) == "web1"
    assert bench.store["down"] == {second.address: "maint"}
    assert serving(haproxy) == ports(first)


def test_a_backend_that_is_not_there_is_told(haproxy: HAProxy, backends: list[Backend]) -> None:
    """With its name."""
    bench = bench_of(haproxy, upstream="nope")

    hand(bench, backends[0])

    reasons = [line.fields["reason"] for line in bench.log if line.level == "error"]
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

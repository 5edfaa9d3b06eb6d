"""The run-time drivers' common part: who is right about a server that is down here and up there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest

from agentd.handler import Notification, PermanentError, ServiceState, TemporaryError
from agentd.testing import HandlerBench, event, instance, notification, service
from handlers.nginx_upstream import NginxUpstream
from handlers.nginx_upstream.drivers import Running
from handlers.nginx_upstream.runtime import Runtime
from handlers.nginx_upstream.servers import Server


class Balancer:
    """A balancer in memory, and its driver.

    Attributes:
        servers: address -> server, as set.
        states: address -> what operators made of it.
        epoch: see `Running`.
        error: raised by every call while it is set.
        calls: how often it was asked.
    """

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.states: dict[str, str] = {}
        self.epoch = "1"
        self.error: Exception | None = None
        self.calls = 0

    def look(self, known: Collection[str] | None) -> Running:  # noqa: ARG002 (the interface)
        """List, or raise."""
        self.calls += 1
        if self.error:
            raise self.error
        return Running({one: self.states.get(one, "up") for one in self.servers}, self.epoch)

    def apply(self, servers: Sequence[Server], down: Mapping[str, str]) -> int:
        """Become equal."""
        wanted = {server.address: server for server in servers}
        self.states = {one: down.get(one, "down") for one, server in wanted.items() if server.down}
        changes = int(wanted != self.servers)
        self.servers = wanted
        return changes

    def load(self, bench: HandlerBench) -> None:
        """Forget all and read the file of the current generation, as a reload of nginx does."""
        lines = [one.strip() for one in bench.files["upstreams/api.conf"].decode().splitlines()]
        servers = [Server.parse(line[7:-1]) for line in lines if line.startswith("server ")]
        self.servers = {server.address: server for server in servers}
        self.states = {server.address: "down" for server in servers if server.down}


@pytest.fixture
def balancer() -> Balancer:
    """A balancer without servers."""
    return Balancer()


OPTIONS = {"upstream": "api", "driver": "dynamic", "interface": "http://127.0.0.1:1/", "keep_down": "10m"}


@pytest.fixture
def bench(balancer: Balancer) -> HandlerBench:
    """A handler that drives it, with its initial files."""
    bench = HandlerBench(NginxUpstream, OPTIONS)
    drive(bench, balancer)
    bench.initial()
    balancer.load(bench)
    return bench


def drive(bench: HandlerBench, balancer: Balancer) -> None:
    """Put the balancer's driver into a handler object just made."""
    assert isinstance(bench.handler, NginxUpstream)
    bench.handler._runtime = Runtime(balancer, 2.0)


def hosts(*numbers: int) -> ServiceState:
    """The service with instances 10.0.0.N:80."""
    return service("api", [instance(f"10.0.0.{number}", 80) for number in numbers])


def host(number: int) -> str:
    """An address."""
    return f"10.0.0.{number}:80"


def reload_of(bench: HandlerBench, generation: int | None = None) -> Notification:
    """That nginx loaded the current generation, or another."""
    return notification(bench.generation if generation is None else generation, "nginx-reload")


def gauge(bench: HandlerBench, name: str) -> float:
    """What the metrics show."""
    return float(bench.store["gauges"][f"upstream_{name}"])


def text(bench: HandlerBench) -> str:
    """The rendered file."""
    return bench.files["upstreams/api.conf"].decode()


def test_servers_are_set_at_run_time_and_in_the_file(bench: HandlerBench, balancer: Balancer) -> None:
    """A reload starts from what runs."""
    bench.handle(hosts(1, 2))

    assert list(balancer.servers) == [host(1), host(2)]
    assert f"server {host(1)};" in text(bench)
    assert gauge(bench, "in_step") == 1


def test_before_the_first_state_nothing_is_touched(bench: HandlerBench, balancer: Balancer) -> None:
    """Whoever serves by then was put there by somebody else."""
    balancer.servers[host(9)] = Server(host(9))

    bench.advance(60)
    bench.handle(reload_of(bench))

    assert balancer.calls == 0
    assert host(9) in balancer.servers


def test_what_differs_is_mended(bench: HandlerBench, balancer: Balancer) -> None:
    """Whoever changed it, within `sync` seconds."""
    bench.handle(hosts(1, 2))
    del balancer.servers[host(2)]
    balancer.servers[host(9)] = Server(host(9))

    bench.advance(2)

    assert list(balancer.servers) == [host(1), host(2)]


def test_a_comparison_that_finds_nothing_commits_nothing(bench: HandlerBench, balancer: Balancer) -> None:
    """An idle node stays idle."""
    bench.handle(hosts(1, 2))
    before, calls = (bench.generation, bench.store), balancer.calls

    bench.advance(20)

    assert (bench.generation, bench.store) == before
    assert balancer.calls == calls + 10


# ---------------------------------------------------------------- down by an operator


def test_a_server_taken_down_is_written_down(bench: HandlerBench, balancer: Balancer) -> None:
    """In the file, so that the next reload starts with it."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"

    bench.advance(2)

    assert f"server {host(1)} down;" in text(bench)
    assert gauge(bench, "down") == 1
    assert gauge(bench, "servers") == 1


def test_it_stays_down_whatever_consul_says(bench: HandlerBench, balancer: Balancer) -> None:
    """Gone and back again, in a changed service: only the operator puts it up."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"

    for state in (hosts(1, 2, 3), hosts(2, 3), hosts(1, 2, 3)):
        bench.handle(state)
        bench.advance(2)

    assert balancer.states == {host(1): "down"}


def test_it_stays_down_over_a_reload_of_the_file_that_says_so(
    bench: HandlerBench, balancer: Balancer
) -> None:
    """The common case."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    bench.advance(2)

    balancer.load(bench)
    bench.handle(reload_of(bench))

    assert balancer.states == {host(1): "down"}


def test_it_stays_down_over_a_reload_of_an_older_file(bench: HandlerBench, balancer: Balancer) -> None:
    """The commit that says so was under way while nginx loaded the generation before it."""
    bench.handle(hosts(1, 2))
    older = bench.generation
    balancer.states[host(1)] = "down"
    bench.advance(2)

    balancer.states.clear()
    bench.handle(reload_of(bench, older))

    assert balancer.states == {host(1): "down"}
    assert f"server {host(1)} down;" in text(bench)


def test_it_stays_down_over_a_rollback(bench: HandlerBench, balancer: Balancer) -> None:
    """Store and file are as before; what the handler saw is not."""
    bench.handle(hosts(1, 2))
    store, files, generation = bench.store, dict(bench._files), bench.generation
    balancer.states[host(1)] = "down"
    bench.advance(2)

    bench.store, bench._files, bench.generation = store, files, generation
    balancer.load(bench)
    bench.handle(notification(bench.generation, "nginx-reload", rollback=True))

    assert balancer.states == {host(1): "down"}
    assert f"server {host(1)} down;" in text(bench)


def test_it_stays_down_over_a_restart_of_agentd_and_nginx(bench: HandlerBench, balancer: Balancer) -> None:
    """All that is left is on disk."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    bench.advance(2)

    bench.restart()
    drive(bench, balancer)
    balancer.load(bench)
    bench.initial()
    bench.handle(hosts(1, 2, 3))

    assert balancer.states == {host(1): "down"}


def test_it_stays_down_over_a_restart_of_a_balancer_without_a_file(
    bench: HandlerBench, balancer: Balancer
) -> None:
    """HAProxy starts with what its own configuration says; its pid tells."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "drain"
    bench.advance(2)

    balancer.states.clear()
    balancer.epoch = "2"
    bench.advance(2)

    assert balancer.states == {host(1): "drain"}


def test_a_server_put_up_is_up(bench: HandlerBench, balancer: Balancer) -> None:
    """Within `sync` seconds also in the file."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    bench.advance(2)

    balancer.states.clear()
    bench.advance(2)

    assert balancer.states == {}
    assert "down" not in text(bench)


def test_a_server_put_up_just_before_a_reload_is_up(bench: HandlerBench, balancer: Balancer) -> None:
    """Where the balancer keeps its state over a reload it knows better than the file."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    bench.advance(2)

    balancer.states.clear()
    bench.handle(reload_of(bench))

    assert balancer.states == {}
    assert "down" not in text(bench)


def test_a_server_down_is_no_removal(bench: HandlerBench, balancer: Balancer) -> None:
    """Its instance may go, as in every deployment, and the guards have nothing to say."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    bench.advance(2)

    bench.handle(hosts(2))

    assert [gauge(bench, f"held_{guard}") for guard in ("empty", "min_servers", "share")] == [0, 0, 0]
    assert balancer.states == {host(1): "down"}


def test_a_server_down_whose_instance_never_comes_back_is_forgotten(
    bench: HandlerBench, balancer: Balancer
) -> None:
    """After `keep_down`."""
    bench.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    bench.handle(hosts(2))

    bench.advance(600)

    assert list(balancer.servers) == [host(2)]
    assert host(1) not in text(bench)


def test_an_override_leaves_operators_servers_alone(bench: HandlerBench, balancer: Balancer) -> None:
    """It speaks of the guards."""
    bench.handle(hosts(1, 2, 3))
    balancer.states[host(1)] = "down"
    bench.handle(hosts())

    bench.handle(event("upstream-override", "api"))

    assert list(balancer.servers) == [host(1)]
    assert balancer.states == {host(1): "down"}


# ---------------------------------------------------------------- trouble


@pytest.mark.parametrize("error", [TemporaryError("no answer"), PermanentError("status 404")])
def test_trouble_never_keeps_the_file_back(bench: HandlerBench, balancer: Balancer, error: Exception) -> None:
    """Nginx may be down just because it waits for that file; the alarm is raised."""
    balancer.error = error

    bench.handle(hosts(1, 2))

    assert f"server {host(1)};" in text(bench)
    assert gauge(bench, "in_step") == 0
    errors = [line.fields["reason"] for line in bench.log if line.level == "error"]
    assert errors == [str(error)]


def test_once_it_answers_it_is_brought_into_step(bench: HandlerBench, balancer: Balancer) -> None:
    """Without another state."""
    balancer.error = TemporaryError("no answer")
    bench.handle(hosts(1, 2))
    balancer.error = None

    bench.advance(30)

    assert list(balancer.servers) == [host(1), host(2)]
    assert gauge(bench, "in_step") == 1


def test_trouble_is_asked_less_and_less_often_and_told_once(bench: HandlerBench, balancer: Balancer) -> None:
    """Every 30 seconds in the end."""
    balancer.error = TemporaryError("no answer")
    bench.handle(hosts(1))
    balancer.calls = 0

    bench.advance(600)

    assert 18 <= balancer.calls <= 26
    assert [line.event for line in bench.log if line.level == "error"] == ["upstream.out_of_step"]


def test_a_verification_that_fails_is_trouble(bench: HandlerBench, balancer: Balancer) -> None:
    """What was set and is not there is not in step."""

    def refuse(servers: Sequence[Server], down: Mapping[str, str]) -> int:
        raise TemporaryError(f"{len(servers)} servers are not as they were set, {len(down)} down")

    balancer.apply = refuse  # type: ignore[method-assign]  # this one object refuses

    bench.handle(hosts(1))

    assert gauge(bench, "in_step") == 0


def test_a_dry_run_touches_no_balancer(bench: HandlerBench, balancer: Balancer) -> None:
    """It only shows the file."""
    bench.dry_run = True
    balancer.calls = 0

    bench.handle(hosts(1))

    assert balancer.calls == 0
    assert f"server {host(1)};" in text(bench)

"""The run-time drivers' common part: who is right about a server that is down here and up there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from agentd.handler import Drift, Notification, PermanentError, ServiceState, TemporaryError, Verdict
from agentd.testing import HandlerHarness, event, instance, notification, service
from handlers.nginx_upstream.handler import NginxUpstream
from handlers.nginx_upstream.interface import Unanswered
from handlers.nginx_upstream.runtime import Applied, Running, Runtime
from handlers.nginx_upstream.server import Server


class Balancer:
    """A balancer in memory, and its driver.

    Attributes:
        servers: address -> server, as set.
        states: address -> what operators made of it.
        epoch: see `Running`.
        error: raised by every call while it is set.
        calls: how often it was asked.
        deaf: raised by changes while it is set.
        left: addresses that only a reload can add.
        resets: how often it was told that it may ask again.
        workers: the processes that answer.
    """

    least_weight = 1

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.states: dict[str, str] = {}
        self.epoch = "1"
        self.error: Exception | None = None
        self.deaf: Exception | None = None
        self.left: set[str] = set()
        self.calls = self.resets = 0
        self.workers = {1, 2}

    def look(self, known: Collection[str] | None) -> Running:  # noqa: ARG002 (the interface)
        """List, or raise."""
        self.calls += 1
        if self.error:
            raise self.error
        states = {one: self.states.get(one, "up") for one in self.servers}
        return Running(states, {one: server.weight for one, server in self.servers.items()}, self.epoch)

    def apply(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:  # noqa: ARG002 (the interface)
        """Become equal."""
        if self.deaf:
            raise self.deaf
        wanted = {server.address: server for server in servers if server.address not in self.left}
        states = {one: down.get(one, "down") for one, server in wanted.items() if server.down}
        runs = {one: replace(server, down=one in self.states) for one, server in self.servers.items()}
        changed = (wanted, states) != (runs, self.states)
        self.servers, self.states = wanted, states
        return Applied(["10.0.0.1:80 was missing"] * changed, dict.fromkeys(self.left, "it is IPv6"))

    def compare(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:
        """What would be done."""
        before = self.servers, self.states
        applied = self.apply(servers, down, method)
        self.servers, self.states = before
        return applied

    def give_up(self, reason: str) -> None:
        """Ask nothing."""
        self.error = Unanswered(reason)

    def reset(self) -> None:
        """Ask again."""
        self.resets += 1

    def weigh(self, address: str, weight: int) -> None:
        """As an operator does it."""
        self.servers[address] = replace(self.servers[address], weight=weight)

    def load(self, harness: HandlerHarness) -> None:
        """Forget all and read the file of the current generation, as a reload with the module does."""
        lines = [one.strip() for one in harness.files["upstreams/api.conf"].decode().splitlines()]
        servers = [Server.parse(line[7:-1]) for line in lines if line.startswith("server ")]
        self.servers = {server.address: server for server in servers}
        self.states = {server.address: "down" for server in servers if server.down}


@pytest.fixture
def balancer() -> Balancer:
    """A balancer without servers."""
    return Balancer()


OPTIONS = {"upstream": "api", "driver": "dynamic", "interface": "http://127.0.0.1:1/", "keep_down": "10m"}


@pytest.fixture
def harness(balancer: Balancer) -> HandlerHarness:
    """A handler that drives it, with its initial files."""
    harness = HandlerHarness(NginxUpstream, OPTIONS)
    drive(harness, balancer)
    harness.initial()
    balancer.load(harness)
    return harness


def drive(harness: HandlerHarness, balancer: Balancer) -> None:
    """Put the balancer's driver into a handler object just made."""
    assert isinstance(harness.handler, NginxUpstream)
    harness.handler._runtime = Runtime(
        balancer, "http://127.0.0.1:1/", 2.0, lambda _context: frozenset(balancer.workers)
    )


def hosts(*numbers: int, weight: int = 1) -> ServiceState:
    """The service with instances 10.0.0.N:80, of this weight in Consul."""
    return service(
        "api",
        [instance(f"10.0.0.{number}", 80, Weights={"Passing": weight, "Warning": 1}) for number in numbers],
    )


def host(number: int) -> str:
    """An address."""
    return f"10.0.0.{number}:80"


def reload_of(harness: HandlerHarness, generation: int | None = None) -> Notification:
    """That nginx loaded the current generation, or another."""
    return notification(harness.generation if generation is None else generation, "nginx-reload")


def gauge(harness: HandlerHarness, name: str) -> float:
    """What the metrics show."""
    return float(harness.store["gauges"][f"upstream_{name}"])


def text(harness: HandlerHarness) -> str:
    """The rendered file."""
    return harness.files["upstreams/api.conf"].decode()


def test_servers_are_set_at_run_time_and_in_the_file(harness: HandlerHarness, balancer: Balancer) -> None:
    """A reload starts from what runs."""
    harness.handle(hosts(1, 2))

    assert list(balancer.servers) == [host(1), host(2)]
    assert f"server {host(1)};" in text(harness)
    assert gauge(harness, "in_step") == 1


def test_before_the_first_state_nothing_is_touched(harness: HandlerHarness, balancer: Balancer) -> None:
    """Whoever serves by then was put there by somebody else."""
    balancer.servers[host(9)] = Server(host(9))

    harness.advance(60)
    harness.handle(reload_of(harness))

    assert balancer.calls == 0
    assert host(9) in balancer.servers


def test_what_differs_is_mended(harness: HandlerHarness, balancer: Balancer) -> None:
    """Whoever changed it, within `sync` seconds."""
    harness.handle(hosts(1, 2))
    del balancer.servers[host(2)]
    balancer.servers[host(9)] = Server(host(9))

    harness.advance(2)

    assert list(balancer.servers) == [host(1), host(2)]


def test_a_comparison_that_finds_nothing_commits_nothing(harness: HandlerHarness, balancer: Balancer) -> None:
    """An idle node stays idle."""
    harness.handle(hosts(1, 2))
    before, calls = (harness.generation, harness.store), balancer.calls

    harness.advance(20)

    assert (harness.generation, harness.store) == before
    assert balancer.calls == calls + 10


# ---------------------------------------------------------------- down by an operator


def test_a_server_taken_down_is_written_down(harness: HandlerHarness, balancer: Balancer) -> None:
    """In the file, so that the next reload starts with it."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"

    harness.advance(2)

    assert f"server {host(1)} down;" in text(harness)
    assert gauge(harness, "down") == 1
    assert gauge(harness, "servers") == 1


def test_it_stays_down_whatever_consul_says(harness: HandlerHarness, balancer: Balancer) -> None:
    """Gone and back again, in a changed service: only the operator puts it up."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"

    for state in (hosts(1, 2, 3), hosts(2, 3), hosts(1, 2, 3)):
        harness.handle(state)
        harness.advance(2)

    assert balancer.states == {host(1): "down"}


def test_it_stays_down_over_a_reload_of_the_file_that_says_so(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """The common case."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    harness.advance(2)

    balancer.load(harness)
    harness.handle(reload_of(harness))

    assert balancer.states == {host(1): "down"}


def test_it_stays_down_over_a_reload_of_an_older_file(harness: HandlerHarness, balancer: Balancer) -> None:
    """The commit that says so was under way while nginx loaded the generation before it."""
    harness.handle(hosts(1, 2))
    older = harness.generation
    balancer.states[host(1)] = "down"
    harness.advance(2)

    balancer.states.clear()
    harness.handle(reload_of(harness, older))

    assert balancer.states == {host(1): "down"}
    assert f"server {host(1)} down;" in text(harness)


def test_it_stays_down_over_a_rollback(harness: HandlerHarness, balancer: Balancer) -> None:
    """Store and file are as before; what the handler saw is not."""
    harness.handle(hosts(1, 2))
    store, files, generation = harness.store, dict(harness._files), harness.generation
    balancer.states[host(1)] = "down"
    harness.advance(2)

    harness.store, harness._files, harness.generation = store, files, generation
    balancer.load(harness)
    harness.handle(notification(harness.generation, "nginx-reload", rollback=True))

    assert balancer.states == {host(1): "down"}
    assert f"server {host(1)} down;" in text(harness)


def test_it_stays_down_over_restarts_of_agentd_and_nginx(harness: HandlerHarness, balancer: Balancer) -> None:
    """All that is left is on disk."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    harness.advance(2)

    harness.restart()
    drive(harness, balancer)
    balancer.load(harness)
    harness.initial()
    harness.handle(hosts(1, 2, 3))

    assert balancer.states == {host(1): "down"}


def test_it_stays_down_over_a_restart_of_a_balancer_without_a_file(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """HAProxy starts with what its own configuration says; its pid tells."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "drain"
    harness.advance(2)

    balancer.states.clear()
    balancer.epoch = "2"
    harness.advance(2)

    assert balancer.states == {host(1): "drain"}


def test_a_server_put_up_is_up(harness: HandlerHarness, balancer: Balancer) -> None:
    """Within `sync` seconds also in the file."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    harness.advance(2)

    balancer.states.clear()
    harness.advance(2)

    assert balancer.states == {}
    assert "down" not in text(harness)


def test_a_server_put_up_just_before_a_reload_is_up(harness: HandlerHarness, balancer: Balancer) -> None:
    """Where the balancer keeps its state over a reload it knows better than the file."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    harness.advance(2)

    balancer.states.clear()
    harness.handle(reload_of(harness))

    assert balancer.states == {}
    assert "down" not in text(harness)


def test_a_server_down_is_no_removal(harness: HandlerHarness, balancer: Balancer) -> None:
    """Its instance may go, as in every deployment, and the guards have nothing to say."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    harness.advance(2)

    harness.handle(hosts(2))

    assert [gauge(harness, f"held_{guard}") for guard in ("empty", "min_servers", "share")] == [0, 0, 0]
    assert balancer.states == {host(1): "down"}


def test_a_server_down_whose_instance_never_comes_back_is_forgotten(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """After `keep_down`."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    harness.handle(hosts(2))

    harness.advance(600)

    assert list(balancer.servers) == [host(2)]
    assert host(1) not in text(harness)


def test_an_override_leaves_operators_servers_alone(harness: HandlerHarness, balancer: Balancer) -> None:
    """It speaks of the guards."""
    harness.handle(hosts(1, 2, 3))
    balancer.states[host(1)] = "down"
    harness.handle(hosts())

    harness.handle(event("upstream-override", "api"))

    assert list(balancer.servers) == [host(1)]
    assert balancer.states == {host(1): "down"}


# ---------------------------------------------------------------- a weight by an operator


def weights(balancer: Balancer) -> list[int]:
    """Of the servers, in order."""
    return [balancer.servers[address].weight for address in sorted(balancer.servers)]


def test_a_weight_is_kept(harness: HandlerHarness, balancer: Balancer) -> None:
    """It is written to the file, and shown, and nobody changes it back."""
    harness.handle(hosts(1, 2, weight=3))
    balancer.weigh(host(1), 7)

    harness.advance(10)

    assert weights(balancer) == [7, 3]
    assert f"server {host(1)} weight=7;" in text(harness)
    assert gauge(harness, "weighted") == 1
    assert harness.store["status"] == [{"part": f"{host(1)}: weight 7, by an operator"}]


def test_a_weight_is_kept_whatever_consul_says(harness: HandlerHarness, balancer: Balancer) -> None:
    """Other weights, also the same one for a while; gone and back again."""
    harness.handle(hosts(1, 2, weight=3))
    balancer.weigh(host(1), 7)

    for state in (hosts(1, 2, weight=4), hosts(1, 2, weight=7), hosts(2, weight=5), hosts(1, 2, weight=5)):
        harness.handle(state)
        harness.advance(2)

    assert weights(balancer) == [7, 5]


def test_the_weight_that_consul_says_gives_it_back(harness: HandlerHarness, balancer: Balancer) -> None:
    """From then on it follows Consul again."""
    harness.handle(hosts(1, weight=3))
    balancer.weigh(host(1), 7)
    harness.advance(2)
    balancer.weigh(host(1), 3)
    harness.advance(2)

    harness.handle(hosts(1, weight=4))

    assert weights(balancer) == [4]
    assert gauge(harness, "weighted") == 0


def test_a_weight_and_down_do_not_touch_each_other(harness: HandlerHarness, balancer: Balancer) -> None:
    """Put up again, it has the weight that it was given."""
    harness.handle(hosts(1, 2))
    balancer.weigh(host(1), 7)
    balancer.states[host(1)] = "down"
    harness.advance(2)
    balancer.states.clear()

    harness.advance(2)

    assert weights(balancer) == [7, 1]
    assert balancer.states == {}


@pytest.mark.parametrize("older", [False, True])
def test_a_weight_is_kept_over_a_reload(harness: HandlerHarness, balancer: Balancer, older: bool) -> None:  # noqa: FBT001 (parametrized)
    """Whether or not the file that was read has it."""
    harness.handle(hosts(1, 2))
    generation = harness.generation
    balancer.weigh(host(1), 7)
    harness.advance(2)

    balancer.load(harness)
    if older:
        balancer.weigh(host(1), 1)
    harness.handle(reload_of(harness, generation if older else None))

    assert weights(balancer) == [7, 1]


def test_a_weight_set_just_after_a_reload_counts(harness: HandlerHarness, balancer: Balancer) -> None:
    """Before agentd has looked again."""
    harness.handle(hosts(1, 2))
    balancer.weigh(host(1), 7)
    harness.advance(2)

    balancer.load(harness)
    balancer.weigh(host(1), 9)
    harness.handle(reload_of(harness))
    harness.advance(4)

    assert weights(balancer) == [9, 1]


def test_a_weight_is_kept_over_a_rollback(harness: HandlerHarness, balancer: Balancer) -> None:
    """Store and file are as before."""
    harness.handle(hosts(1, 2))
    store, files, generation = harness.store, dict(harness._files), harness.generation
    balancer.weigh(host(1), 7)
    harness.advance(2)

    harness.store, harness._files, harness.generation = store, files, generation
    balancer.load(harness)
    harness.handle(notification(harness.generation, "nginx-reload", rollback=True))

    assert weights(balancer) == [7, 1]
    assert "weight=7" in text(harness)


def test_a_weight_is_kept_over_a_restart_of_a_balancer_without_a_file(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """HAProxy's slots begin with the weight in its own configuration."""
    harness.handle(hosts(1, 2))
    balancer.weigh(host(1), 7)
    harness.advance(2)

    balancer.weigh(host(1), 100)
    balancer.epoch = "2"
    harness.advance(2)

    assert weights(balancer) == [7, 1]


def test_a_weight_that_could_not_be_set_yet_is_no_operators(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """Consul's new one is set once that succeeds, also after a restart of agentd in between."""
    for restarts in (False, True):
        harness.handle(hosts(1, weight=3))
        balancer.deaf = TemporaryError("no answer")
        harness.handle(hosts(1, weight=4))
        harness.advance(10)
        if restarts:
            harness.restart()
            drive(harness, balancer)
        balancer.deaf = None
        harness.advance(40)

        assert weights(balancer) == [4]
        assert harness.store["weights"] == {}
        assert harness.store["lagging"] == {}


def test_down_that_could_not_be_set_again_is_tried_again(harness: HandlerHarness, balancer: Balancer) -> None:
    """A reload lost it, and the first attempt at setting it failed: up was not an operator's wish."""
    harness.handle(hosts(1, 2))
    older = harness.generation
    balancer.states[host(1)] = "down"
    harness.advance(2)

    balancer.states.clear()
    balancer.deaf = TemporaryError("no answer")
    harness.handle(reload_of(harness, older))
    trouble = [part.get("trouble") for part in harness.store["status"]]
    balancer.deaf = None
    harness.advance(40)

    assert trouble[-1] == "no answer"
    assert balancer.states == {host(1): "down"}


def test_a_weight_of_nothing_is_refused_aloud(harness: HandlerHarness, balancer: Balancer) -> None:
    """The module takes weight=0, and nginx would not start with it."""
    harness.handle(hosts(1, 2))
    balancer.weigh(host(1), 0)

    harness.advance(10)

    assert weights(balancer) == [1, 1]
    warnings = [line for line in harness.log if line.event == "upstream.weight_refused"]
    assert [line.fields["weight"] for line in warnings] == [0]


def test_a_weight_of_somebody_elses_server_is_not_kept(harness: HandlerHarness, balancer: Balancer) -> None:
    """Before the first state the servers were not agentd's."""
    balancer.servers = {host(1): Server(host(1), weight=50)}

    harness.handle(hosts(1, weight=3))

    assert weights(balancer) == [3]


def test_the_weight_of_a_server_that_never_comes_back_is_forgotten(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """After `keep_down`, as whether it was down."""
    harness.handle(hosts(1, 2))
    balancer.weigh(host(1), 7)
    harness.advance(2)
    harness.handle(hosts(2))

    harness.advance(602)
    harness.handle(hosts(1, 2))

    assert weights(balancer) == [1, 1]
    assert harness.store["gone"] == {}


# ---------------------------------------------------------------- what only a reload can do


def test_a_change_that_took_effect_needs_no_reload(harness: HandlerHarness) -> None:
    """That is what the driver is for."""
    harness.handle(hosts(1, 2))
    harness.handle(hosts(1, 2, 3, weight=4))

    assert harness.reloads == 0


def test_what_cannot_be_set_at_run_time_is_left_to_a_reload(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """One is asked for, with a warning that says why; the status says so until then."""
    balancer.left = {host(2)}

    harness.handle(hosts(1, 2))
    harness.advance(10)
    waits = harness.store["status"]
    balancer.left = set()
    harness.handle(reload_of(harness))

    assert harness.reloads == 1
    assert waits == [{"part": host(2), "trouble": "waits for a reload: it is IPv6"}]
    assert [line.fields["reason"] for line in harness.log if line.event == "upstream.by_reload"] == [
        "it is IPv6"
    ]
    assert harness.store["status"] == []


def test_a_balancer_in_trouble_is_brought_into_step_by_a_reload(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """Where one can be asked for."""
    balancer.error = TemporaryError("no answer")

    harness.handle(hosts(1, 2))

    assert harness.reloads == 1


@pytest.mark.parametrize("tag", ["backup", "max_conns=5"])
def test_what_no_interface_takes_needs_a_reload(harness: HandlerHarness, tag: str) -> None:
    """Backup servers, and limits of connections."""
    harness.handle(hosts(1, 2))

    harness.handle(service("api", [instance("10.0.0.1", 80), instance("10.0.0.2", 80, Tags=[tag])]))

    assert harness.reloads == 1


# ---------------------------------------------------------------- a worker that hangs


def test_after_a_time_out_it_is_asked_again_when_other_workers_serve(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """Or after a reload; not before."""
    harness.handle(hosts(1, 2))
    balancer.error = Unanswered("timed out")
    harness.advance(60)
    balancer.workers = {2, 3}
    harness.advance(60)
    meanwhile = balancer.resets

    balancer.workers = {3, 4}
    harness.advance(30)
    others = balancer.resets
    harness.handle(reload_of(harness))

    assert (meanwhile, others, balancer.resets) == (0, 1, 2)


def test_a_time_out_is_remembered_over_a_restart_of_agentd(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """Or each start would hang one more worker; other workers, or a reload, end it."""
    harness.handle(hosts(1, 2))
    balancer.error = Unanswered("timed out")
    harness.advance(30)
    balancer.error = None

    harness.restart()
    drive(harness, balancer)
    harness.due()
    given_up = str(balancer.error)
    balancer.workers, balancer.error = {3}, None
    harness.advance(60)

    assert given_up == "timed out"
    assert balancer.resets == 1
    assert gauge(harness, "in_step") == 1
    assert "stuck" not in harness.store


# ---------------------------------------------------------------- whether it holds


def test_a_balancer_in_step_has_no_drift(harness: HandlerHarness) -> None:
    """Nor before the first state, when nothing is known."""
    before = harness.verify()
    harness.handle(hosts(1, 2))

    assert (before, harness.verify()) == (Verdict(), Verdict())


def test_drift_is_mended(harness: HandlerHarness, balancer: Balancer) -> None:
    """A server that somebody removed is there again, and the verdict says so."""
    harness.handle(hosts(1, 2))
    del balancer.servers[host(1)]

    verdict = harness.verify()

    assert [drift.reason for drift in verdict.mended] == ["10.0.0.1:80 was missing"]
    assert verdict.drift == ()
    assert host(1) in balancer.servers


def test_in_a_dry_run_drift_is_told_and_not_mended(harness: HandlerHarness, balancer: Balancer) -> None:
    """As `agentd check` asks."""
    harness.handle(hosts(1, 2))
    del balancer.servers[host(1)]
    harness.dry_run = True

    verdict = harness.verify()

    assert [drift.reason for drift in verdict.drift] == ["10.0.0.1:80 was missing"]
    assert verdict.mended == ()
    assert host(1) not in balancer.servers


def test_where_drift_is_only_told_it_is_not_mended(harness: HandlerHarness, balancer: Balancer) -> None:
    """Neither by a verdict, nor by the comparison in between; the next state sets it right."""
    harness.handle(hosts(1, 2))
    del balancer.servers[host(1)]
    harness.mend = False

    harness.advance(20)
    verdict = harness.verify()
    before = list(balancer.servers)
    harness.handle(hosts(1, 2, 3))

    assert [drift.reason for drift in verdict.drift] == ["10.0.0.1:80 was missing"]
    assert before == [host(2)]
    assert list(balancer.servers) == [host(1), host(2), host(3)]


def test_where_drift_is_only_told_a_reload_still_sets_what_it_lost(
    harness: HandlerHarness, balancer: Balancer
) -> None:
    """It is agentd's own."""
    harness.handle(hosts(1, 2))
    harness.mend = False
    balancer.servers.clear()

    harness.handle(reload_of(harness))

    assert list(balancer.servers) == [host(1), host(2)]


def test_what_an_operator_has_just_set_is_no_drift(harness: HandlerHarness, balancer: Balancer) -> None:
    """It is left as it is, and learnt afterwards."""
    harness.handle(hosts(1, 2))
    balancer.states[host(1)] = "down"
    balancer.weigh(host(2), 7)

    verdict = harness.verify()
    harness.advance(2)

    assert verdict == Verdict()
    assert f"server {host(1)} down;" in text(harness)
    assert f"server {host(2)} weight=7;" in text(harness)


def test_a_balancer_that_does_not_answer_is_drift(harness: HandlerHarness, balancer: Balancer) -> None:
    """With its place, and the reason."""
    harness.handle(hosts(1, 2))
    balancer.error = TemporaryError("no answer")

    assert harness.verify().drift == (Drift("load balancer http://127.0.0.1:1/", "no answer"),)


def test_what_waits_for_a_reload_is_drift(harness: HandlerHarness, balancer: Balancer) -> None:
    """With the server, and what to do."""
    balancer.left = {host(2)}
    harness.handle(hosts(1, 2))

    assert harness.verify().drift == (Drift(host(2), "it is IPv6: reload nginx", reload=True),)


# ---------------------------------------------------------------- trouble


@pytest.mark.parametrize("error", [TemporaryError("no answer"), PermanentError("status 404")])
def test_trouble_never_holds_up_the_file(
    harness: HandlerHarness, balancer: Balancer, error: Exception
) -> None:
    """Nginx may be down just because it waits for that file; the alarm is raised."""
    balancer.error = error

    harness.handle(hosts(1, 2))

    assert f"server {host(1)};" in text(harness)
    assert gauge(harness, "in_step") == 0
    errors = [line.fields["reason"] for line in harness.log if line.level == "error"]
    assert errors == [str(error)]
    assert [part["trouble"] for part in harness.store["status"]] == [str(error)]


def test_once_it_answers_it_is_brought_into_step(harness: HandlerHarness, balancer: Balancer) -> None:
    """Without another state."""
    balancer.error = TemporaryError("no answer")
    harness.handle(hosts(1, 2))
    balancer.error = None

    harness.advance(30)

    assert list(balancer.servers) == [host(1), host(2)]
    assert gauge(harness, "in_step") == 1
    assert harness.store["status"] == []


def test_trouble_is_asked_less_often_and_told_once(harness: HandlerHarness, balancer: Balancer) -> None:
    """Every 30 seconds in the end."""
    balancer.error = TemporaryError("no answer")
    harness.handle(hosts(1))
    balancer.calls = 0

    harness.advance(600)

    assert 18 <= balancer.calls <= 26
    assert [line.event for line in harness.log if line.level == "error"] == ["upstream.out_of_step"]


def test_a_verification_that_fails_is_trouble(harness: HandlerHarness, balancer: Balancer) -> None:
    """What was set and is not there is not in step."""
    balancer.deaf = TemporaryError("1 servers are not as they were set")

    harness.handle(hosts(1))

    assert gauge(harness, "in_step") == 0


def test_a_dry_run_touches_no_balancer(harness: HandlerHarness, balancer: Balancer) -> None:
    """It only shows the file."""
    harness.dry_run = True
    balancer.calls = 0

    harness.handle(hosts(1))

    assert balancer.calls == 0
    assert f"server {host(1)};" in text(harness)

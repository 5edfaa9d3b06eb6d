"""The order of a rolling deployment, and its limits: down everywhere, deploy, up everywhere, next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import LockLost
from handlers.nginx_upstream.commands.balancers import Balancers
from handlers.nginx_upstream.commands.deployer import CommandDeployer
from handlers.nginx_upstream.commands.deployment import (
    BatchSize,
    DeploymentLimits,
    RollingDeployment,
    parse_batch_size,
)
from handlers.nginx_upstream.commands.record import Record, digest_of
from handlers.nginx_upstream.server import Server
from tests.unit.handlers.nginx_upstream.commands.memory import SERVERS, MemoryInterface, interfaces

ONE, TWO, THREE = SERVERS
FRESH = Record("app", "digest")


@dataclass
class MemoryDeployer(CommandDeployer):
    """Deploys by writing down; `fails` names the servers with which it fails, and why."""

    balancers: list[MemoryInterface]
    fails: dict[str, str] = field(default_factory=dict)
    well: list[str] = field(default_factory=lambda: list(SERVERS))
    on_deploy: Callable[[], object] | None = None
    deployed: list[tuple[str, list[list[str]]]] = field(default_factory=list)

    def passing(self) -> Iterable[str]:
        """Who is well."""
        return self.well

    def deploy(self, server: str, waiting: Callable[[], None]) -> str:
        """Note what was down on each balancer meanwhile."""
        self.deployed.append((server, [one.down() for one in self.balancers]))
        if self.on_deploy:
            self.on_deploy()
        waiting()
        return self.fails.get(server, "")


@dataclass
class Stage:
    """A deployment with all that takes part."""

    limits: DeploymentLimits = field(default_factory=DeploymentLimits)
    balancers: list[MemoryInterface] = field(
        default_factory=lambda: [MemoryInterface("a"), MemoryInterface("b")]
    )
    stop: Event = field(default_factory=Event)
    saved: list[Record] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deployer = MemoryDeployer(self.balancers)
        self.deployment = RollingDeployment(
            SERVERS,
            self.limits,
            Balancers(interfaces(self.balancers)),
            self.deployer,
            save=self.saved.append,
            report=lambda server, step, _: self.steps.append((server, step)),
            stop=self.stop,
        )

    def down(self) -> list[list[str]]:
        """What is down on each balancer."""
        return [one.down() for one in self.balancers]


def test_each_server_is_down_everywhere_while_it_is_deployed_to() -> None:
    """And up everywhere before the next is taken."""
    stage = Stage()
    record = stage.deployment.run(FRESH)
    assert stage.deployer.deployed == [(server, [[server], [server]]) for server in SERVERS]
    assert stage.down() == [[], []]
    assert record == replace(FRESH, done=SERVERS)
    assert stage.steps[:5] == [
        (ONE, "taking down"),
        (ONE, "deploying"),
        (ONE, "waiting"),
        (ONE, "putting up"),
        (ONE, "done"),
    ]


def test_what_is_taken_down_is_recorded_before_it_is_touched() -> None:
    """So that a process that is killed leaves a trace of it."""
    stage = Stage()
    stage.balancers[0].on_change = lambda: stage.steps.append(("taken down", str(stage.saved[-1].taken_down)))
    stage.deployment.run(FRESH)
    assert ("taken down", str((ONE,))) in stage.steps
    assert [record.taken_down for record in stage.saved] == [(ONE,), (), (TWO,), (), (THREE,), ()]


def test_batch_of_two() -> None:
    """Both are down at once, the third alone."""
    stage = Stage(DeploymentLimits(BatchSize(2)))
    stage.deployment.run(FRESH)
    assert {server for server, _ in stage.deployer.deployed[:2]} == {ONE, TWO}
    assert [down for _, down in stage.deployer.deployed] == [[[ONE, TWO]] * 2] * 2 + [[[THREE]] * 2]


def test_failure_leaves_the_server_down_and_stops() -> None:
    """Nobody knows how it is; it is named and still in hand."""
    stage = Stage()
    stage.deployer.fails = {ONE: "the command ended with status 3"}
    record = stage.deployment.run(FRESH)
    assert (record.failed, record.taken_down, record.done) == ((ONE,), (ONE,), ())
    assert stage.deployment.reasons == {ONE: "the command ended with status 3; it is left down"}
    assert stage.down() == [[ONE], [ONE]]
    assert len(stage.deployer.deployed) == 1


def test_so_many_failures_are_borne() -> None:
    """As long as enough servers are left."""
    stage = Stage(DeploymentLimits(max_failures=1))
    stage.deployer.fails = {ONE: "no"}
    record = stage.deployment.run(FRESH)
    assert (record.failed, record.done) == ((ONE,), (TWO, THREE))
    assert stage.down() == [[ONE], [ONE]]


def test_failed_server_is_tried_first_when_it_is_resumed() -> None:
    """It comes back up in the end, though it was found down."""
    stage = Stage()
    for one in stage.balancers:
        one.servers[TWO] = Server(TWO, down=True)
    record = stage.deployment.run(replace(FRESH, done=(ONE,), failed=(TWO,), taken_down=(TWO,)))
    assert [server for server, _ in stage.deployer.deployed] == [TWO, THREE]
    assert stage.down() == [[], []]
    assert (record.failed, record.taken_down) == ((), ())


def test_server_that_an_operator_took_down_stays_down() -> None:
    """It is deployed to, and left as it was found."""
    stage = Stage()
    for one in stage.balancers:
        one.servers[TWO] = Server(TWO, down=True)
    record = stage.deployment.run(FRESH)
    assert stage.down() == [[TWO], [TWO]]
    assert record.done == SERVERS
    assert all(TWO not in saved.taken_down for saved in stage.saved)


def test_balancer_that_fails_keeps_the_server_in_use() -> None:
    """It was taken down nowhere, so nothing is deployed and nothing is in hand."""
    stage = Stage()
    stage.balancers[1].fails = {"look"}
    record = stage.deployment.run(FRESH)
    assert (stage.deployer.deployed, stage.down(), record.taken_down) == ([], [[], []], ())
    assert record.failed == (ONE,)
    assert "not taken down: b (192.0.2.1:80): timed out" in stage.deployment.reasons[ONE]


def test_server_that_cannot_be_put_up_on_all_is_named() -> None:
    """On the others it is up."""
    stage = Stage()
    stage.deployer.on_deploy = lambda: stage.balancers[1].fails.add("change")
    record = stage.deployment.run(FRESH)
    assert stage.down() == [[], [ONE]]
    assert (record.failed, record.taken_down, record.done) == ((ONE,), (ONE,), ())
    assert (
        "not put back up everywhere: b (192.0.2.1:80): answered with status 500"
        in stage.deployment.reasons[ONE]
    )


def test_too_few_that_pass_stop_it() -> None:
    """By Consul's word, before anything is touched."""
    stage = Stage(DeploymentLimits(min_servers=2))
    stage.deployer.well = [ONE, TWO]
    record = stage.deployment.run(FRESH)
    assert record == FRESH
    assert stage.deployment.reasons == {"": "only 1 other servers are passing, and min_servers is 2"}


def test_stop_before_a_deployment_puts_the_server_back() -> None:
    """It was taken down for nothing."""
    stage = Stage()
    stage.balancers[0].on_change = stage.stop.set
    record = stage.deployment.run(FRESH)
    assert (stage.deployer.deployed, stage.down(), record.taken_down) == ([], [[], []], ())
    assert (ONE, "put back") in stage.steps


def test_stop_between_two_of_a_batch_releases_the_second() -> None:
    """It was not touched yet."""
    stage = Stage(DeploymentLimits(BatchSize(2)))
    stage.balancers[0].on_change = stage.stop.set
    record = stage.deployment.run(FRESH)
    assert record.taken_down == ()
    assert (TWO, "taking down") not in stage.steps


def test_stop_during_a_deployment_leaves_the_server_down_and_named() -> None:
    """Half a deployment is not put into use."""
    stage = Stage()
    stage.deployer.on_deploy = stage.stop.set
    stage.deployer.fails = {ONE: "the command was interrupted"}
    record = stage.deployment.run(FRESH)
    assert (record.taken_down, stage.down()) == ((ONE,), [[ONE], [ONE]])
    assert len(stage.deployer.deployed) == 1


def test_stop_after_a_deployment_that_went_well_puts_the_server_up() -> None:
    """And begins no other."""
    stage = Stage()
    stage.deployer.on_deploy = stage.stop.set
    record = stage.deployment.run(FRESH)
    assert (record.done, stage.down()) == ((ONE,), [[], []])


def test_lost_lock_stops_it_before_anything_is_touched() -> None:
    """The record cannot be kept, so nothing is begun."""
    stage = Stage()

    def lost(_: Record) -> None:
        raise LockLost("gone")

    stage.deployment._save = lost
    with pytest.raises(LockLost):
        stage.deployment.run(FRESH)
    assert [one.log for one in stage.balancers] == [[], []]


@given(
    failing=st.sets(st.sampled_from(SERVERS)),
    found_down=st.sets(st.sampled_from(SERVERS)),
    size=st.integers(1, 3),
    failures=st.integers(0, 3),
    least=st.integers(0, 3),
)
def test_whoever_is_down_at_the_end_is_named_or_was_found_so(
    failing: set[str], found_down: set[str], size: int, failures: int, least: int
) -> None:
    """And never were fewer up than asked for, unless they were found so."""
    stage = Stage(DeploymentLimits(BatchSize(size), failures, least))
    for one in stage.balancers:
        one.servers.update({server: Server(server, down=True) for server in found_down})
    stage.deployer.fails = dict.fromkeys(failing, "no")
    record = stage.deployment.run(FRESH)
    for down in stage.down():
        assert set(down) == set(record.taken_down) | found_down
    floor = min(least, 3 - len(found_down))
    assert all(3 - len(down) >= floor for _, downs in stage.deployer.deployed for down in downs)
    assert stage.saved[-1:] in ([], [record])


@pytest.mark.parametrize(
    "text,total,size",
    [("1", 10, 1), ("3", 10, 3), ("25%", 10, 2), ("1%", 10, 1), ("100%", 7, 7), ("50%", 3, 1)],
)
def test_batch_is_a_number_or_a_share(text: str, total: int, size: int) -> None:
    """A share is rounded down, and is at least one server."""
    assert parse_batch_size(text).of(total) == size


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "1.5", "x", "%", "٣", "9999999", "5 %"])
def test_other_batches_are_refused(text: str) -> None:
    """With what is meant."""
    with pytest.raises(ValueError, match=r"such as 3 or 25%|1 or more"):
        parse_batch_size(text)


def test_digest_tells_words_apart() -> None:
    """Not only their letters."""
    assert digest_of(["a b"]) != digest_of(["a", "b"])

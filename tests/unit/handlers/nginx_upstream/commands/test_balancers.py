"""A change on all load balancers at once: verified, and undone where one fails."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nginx_upstream.commands.balancers import Balancer, Balancers, Result, Update
from handlers.nginx_upstream.interface import Desired
from handlers.nginx_upstream.server import Server
from tests.unit.handlers.nginx_upstream.commands.memory import MemoryInterface, interfaces

ONE = "10.0.0.1:80"
DOWN = Update(ONE, Desired(down=True))


@pytest.fixture
def three() -> list[MemoryInterface]:
    """Three balancers."""
    return [MemoryInterface(name) for name in "abc"]


def outcomes(results: list[Result]) -> list[str]:
    """By balancer."""
    return [result.outcome for result in results]


def test_server_is_taken_down_on_all(three: list[MemoryInterface]) -> None:
    """And what was found and what is now are told."""
    results = Balancers(interfaces(three)).change(DOWN)
    assert outcomes(results) == ["changed"] * 3
    assert [one.down() for one in three] == [[ONE]] * 3
    assert (results[0].before, results[0].after) == (Server(ONE), Server(ONE, down=True))


def test_what_is_so_already_is_not_asked_for(three: list[MemoryInterface]) -> None:
    """The balancer says "unchanged"."""
    three[1].servers[ONE] = Server(ONE, down=True)
    assert outcomes(Balancers(interfaces(three)).change(DOWN)) == ["changed", "unchanged", "changed"]
    assert three[1].log == []


def test_balancer_that_cannot_be_seen_stops_it_before_it_began(three: list[MemoryInterface]) -> None:
    """All are looked at first."""
    three[2].fails = {"look"}
    results = Balancers(interfaces(three)).change(DOWN)
    assert outcomes(results) == ["untouched", "untouched", "failed"]
    assert results[2].error == "timed out after 3 s"
    assert [one.log for one in three] == [[], [], []]


def test_failed_change_is_undone_on_the_rest(three: list[MemoryInterface]) -> None:
    """Those that changed are put back; one that was so before is left so."""
    three[0].servers[ONE] = Server(ONE, down=True)
    three[2].fails = {"change"}
    results = Balancers(interfaces(three)).change(DOWN)
    assert outcomes(results) == ["untouched", "undone", "failed"]
    assert [one.down() for one in three] == [[ONE], [], []]


def test_change_that_was_made_but_not_confirmed_is_undone_as_well(three: list[MemoryInterface]) -> None:
    """A balancer that timed out may have done what it was asked for."""
    three[1].late = True
    results = Balancers(interfaces(three)).change(DOWN)
    assert outcomes(results) == ["undone", "failed", "undone"]
    assert results[1].error == "timed out after 3 s; it is as it was before"
    assert [one.down() for one in three] == [[], [], []]


def test_failure_that_cannot_be_undone_says_that_its_state_is_unknown(three: list[MemoryInterface]) -> None:
    """The operator is to look."""
    three[1].fails = {"change"}
    result = Balancers(interfaces(three)).change(DOWN)[1]
    assert result.error == "answered with status 500; it is unknown whether it was changed"


def test_change_that_cannot_be_undone_is_a_failure(three: list[MemoryInterface]) -> None:
    """It names what is left behind."""
    first, second = three[0], three[1]
    done = threading.Event()
    second.fails = {"change"}
    second.on_change = lambda: done.wait(60)
    first.on_change = lambda: first.fails.add("change") if first.down() else None
    three[2].on_change = done.set
    results = Balancers(interfaces(three)).change(DOWN)
    assert results[0].outcome == "failed"
    assert results[0].error == "changed, and could not be changed back: answered with status 500"
    assert first.down() == [ONE]


def test_balancer_that_agrees_and_does_nothing_fails(three: list[MemoryInterface]) -> None:
    """Its word is not enough: it is asked for its list again."""
    three[0].deaf = True
    results = Balancers(interfaces(three)).change(DOWN)
    assert outcomes(results) == ["failed", "undone", "undone"]
    assert "lists the server unchanged" in results[0].error


def test_keep_going_changes_those_that_can_be(three: list[MemoryInterface]) -> None:
    """And undoes nothing."""
    three[0].fails, three[1].fails = {"look"}, {"change"}
    results = Balancers(interfaces(three)).change(DOWN, keep_going=True)
    assert outcomes(results) == ["failed", "failed", "changed"]
    assert three[2].down() == [ONE]


def test_unknown_server_is_named(three: list[MemoryInterface]) -> None:
    """On one balancer that has another configuration."""
    del three[1].servers[ONE]
    results = Balancers(interfaces(three)).change(DOWN)
    assert (results[1].outcome, results[1].error) == ("failed", f"it has no server {ONE}")


def test_weight_is_changed_and_undone(three: list[MemoryInterface]) -> None:
    """To what it was on each."""
    three[0].servers[ONE] = Server(ONE, weight=4)
    three[2].fails = {"change"}
    Balancers(interfaces(three)).change(Update(ONE, Desired(weight=9)))
    assert three[0].log == [(ONE, Desired(weight=9)), (ONE, Desired(weight=4))]
    assert [one.servers[ONE].weight for one in three] == [4, 1, 1]


def test_stop_before_the_changes_touches_nothing(three: list[MemoryInterface]) -> None:
    """A signal came while the balancers were looked at."""
    stop = threading.Event()
    stop.set()
    assert outcomes(Balancers(interfaces(three), stop).change(DOWN)) == ["untouched"] * 3


def test_stop_in_between_undoes_what_was_done(three: list[MemoryInterface]) -> None:
    """Nothing is left half-way."""
    stop = threading.Event()
    for one in three:
        one.on_change = stop.set
    results = Balancers(interfaces(three), stop).change(DOWN)
    assert set(outcomes(results)) <= {"undone", "untouched"}
    assert [one.down() for one in three] == [[], [], []]


def test_each_result_is_told_with_its_time(three: list[MemoryInterface]) -> None:
    """For a live table: once as it comes and once at the end."""
    told: list[Result] = []
    Balancers(interfaces(three), clock=iter(range(100)).__next__).change(DOWN, report=told.append)
    assert sorted(result.balancer.node for result in told) == sorted("abcabc")
    assert all(result.seconds > 0 for result in told)


@given(downs=st.sets(st.sampled_from(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"])), least=st.integers(0, 3))
def test_never_fewer_up_than_asked_for(downs: set[str], least: int) -> None:
    """Whatever is down already; a server that is down takes nothing away."""
    one = MemoryInterface("a")
    for server in downs:
        one.servers[server] = Server(server, down=True)
    up = 3 - len(downs)
    Balancers(interfaces([one])).change(Update(ONE, Desired(down=True), min_servers=least))
    assert 3 - len(one.down()) >= min(up, least)
    if ONE not in downs:
        assert (ONE in one.down()) is (up - 1 >= least)


def test_no_connection_is_left_open(three: list[MemoryInterface]) -> None:
    """One that is kept could be closed by nginx just when it is used again."""
    three[1].fails = {"change"}
    Balancers(interfaces(three)).change(DOWN)
    Balancers(interfaces(three)).look()
    assert [one.open for one in three] == [False] * 3


def test_balancer_is_named_with_its_address() -> None:
    """As an operator would type it."""
    assert str(Balancer("lb1", "10.0.0.1", 81)) == "lb1 (10.0.0.1:81)"
    assert str(Balancer("lb1", "2001:db8::1", 81)) == "lb1 ([2001:db8::1]:81)"

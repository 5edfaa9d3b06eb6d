"""When a node writes what it heard."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.fleet.pace import SELDOM, Pace

NODES = st.integers(1, 5000)
CHANCE = st.floats(0, 1, exclude_max=True)


def pace(nodes: int, chance: Callable[[], float] | float = 0.5) -> Pace:
    """One node's, among so many."""
    return Pace(lambda: nodes, chance if callable(chance) else lambda: chance)


@given(NODES, CHANCE)
def test_an_event_waits_at_most_a_second(nodes: int, chance: float) -> None:
    """However large the fleet, and whoever else may have heard it."""
    waiting = pace(nodes, chance)

    waiting.waits("ban", 100.0, 100.0)

    assert 100.0 <= waiting.due <= 101.0 + 1e-6


def test_a_node_alone_does_not_wait() -> None:
    """There is nobody to wait for."""
    waiting = pace(1, 0.9)

    waiting.waits("ban", 100.0, 100.0)

    assert waiting.due == 100.0


def test_of_many_nodes_the_first_comes_early_and_the_second_once_it_is_done() -> None:
    """Else most writes of a large fleet would fail."""
    chance = random.Random(1)
    firsts, gaps = [], []
    for _ in range(200):
        waits = []
        for _ in range(160):
            one = pace(200, chance.random)
            one.waits("ban", 0.0, 0.0)
            waits.append(one.due)
        first, second = sorted(waits)[:2]
        firsts.append(first)
        gaps.append(second - first)

    assert statistics.mean(firsts) < 0.25
    assert statistics.median(gaps) > 0.02


def test_of_a_few_nodes_each_waits_only_a_moment() -> None:
    """There are few with which it could collide, and what an event waits is what an operator sees."""
    waiting = pace(5, 0.99)

    waiting.waits("ban", 100.0, 100.0)

    assert 100.0 < waiting.due < 100.05


def test_who_wrote_the_newest_message_goes_on_at_once() -> None:
    """So there is one writer, without an election."""
    writer = pace(5, 0.99)
    writer.wrote("ban", 10.0, 0.0)

    writer.waits("ban", 20.0, 20.0)

    assert writer.due == 20.0


def test_the_writer_collects_what_follows_close_upon_a_write() -> None:
    """In a large fleet each write costs more than a moment's wait."""
    writer = pace(200, 0.99)
    writer.wrote("ban", 10.0, 0.0)

    writer.waits("ban", 10.01, 10.01)

    assert writer.due == pytest.approx(10.1)


def test_where_writes_take_long_the_others_wait_longer() -> None:
    """So that they see what the writer wrote before they would write themselves."""
    slow = pace(200, 0.0)
    slow.collided(0.0, 0.03)
    slow.answered(100.0, 0.0)

    slow.waits("ban", 100.0, 100.0)

    assert slow.due >= 100.0 + 2 * 0.03


@given(NODES, CHANCE, st.lists(st.floats(0, 100), min_size=1))
def test_however_long_writes_take_an_event_waits_about_a_second_at_most(
    nodes: int, chance: float, times: list[float]
) -> None:
    """Consul may be slow for reasons of its own."""
    slow = pace(nodes, chance)
    for took in times:
        slow.wrote("deploy", 0.0, took)

    slow.waits("ban", 100.0, 100.0)

    assert slow.due <= 101.2


def test_who_sees_another_one_write_waits_again() -> None:
    """The writer is whoever wrote last."""
    former = pace(200, 0.99)
    former.wrote("ban", 10.0, 0.0)
    former.newest("ban", ours=False)

    former.waits("ban", 20.0, 20.0)

    assert former.due > 20.3


def test_a_node_finds_in_the_log_that_it_is_the_writer() -> None:
    """Such as after its restart."""
    restarted = pace(200, 0.99)
    restarted.newest("ban", ours=True)

    restarted.waits("ban", 20.0, 20.0)

    assert restarted.due == 20.0


def test_names_have_writers_of_their_own() -> None:
    """Their heads do not collide."""
    writer = pace(200, 0.99)
    writer.wrote("ban", 10.0, 0.0)

    writer.waits("deploy", 20.0, 20.0)

    assert writer.due > 20.3


def test_what_still_waits_is_due_as_before() -> None:
    """The relay says at every turn what has waited longest."""
    chance = random.Random(2)
    waiting = pace(200, chance.random)
    waiting.waits("ban", 0.0, 0.0)
    due = waiting.due

    waiting.waits("ban", 0.0, 0.01)

    assert waiting.due == due


@given(NODES, CHANCE)
def test_only_what_has_waited_long_enough_is_a_reason_to_write(nodes: int, chance: float) -> None:
    """A node that has just read the log leaves younger events to those whose turn it is."""
    waiting = pace(nodes, chance)
    waiting.waits("ban", 100.0, 100.0)
    due = waiting.due

    assert waiting.ripe("ban", due) == pytest.approx(100.0)
    assert waiting.ripe("ban", due + 0.01) == pytest.approx(100.01)


def test_before_its_turn_nothing_is_a_reason_to_write() -> None:
    """Somebody else may write it."""
    waiting = pace(200, 0.9)
    waiting.waits("ban", 100.0, 100.0)

    assert waiting.ripe("ban", waiting.due - 0.001) is None


def test_the_writer_writes_all_that_it_has() -> None:
    """Nobody else does."""
    writer = pace(200, 0.9)
    writer.wrote("ban", 10.0, 0.0)
    writer.waits("ban", 20.0, 20.1)

    assert writer.ripe("ban", 20.1) == 20.1


def test_what_was_heard_before_a_write_follows_it_at_once() -> None:
    """A transaction takes only so many; there is nothing to collect."""
    writer = pace(200, 0.9)
    writer.wrote("ban", 10.0, 0.01)

    writer.waits("ban", 9.9, 10.0)

    assert writer.due <= 10.0


def test_what_is_left_of_a_backlog_waits_from_now_on() -> None:
    """All nodes have heard it long ago, and would come at once."""
    waiting = pace(200, 0.5)
    waiting.waits("ban", 100.0, 100.0)
    wait = waiting.due - 100.0

    waiting.waits("ban", 100.1, 103.0)

    assert waiting.due == pytest.approx(103.0 + wait)


def test_nothing_is_due_once_all_is_in_the_log() -> None:
    """An idle node asks nothing."""
    waiting = pace(200)
    waiting.waits("ban", 0.0, 0.0)

    waiting.waits("ban", None, 1.0)

    assert waiting.due == math.inf
    assert waiting.ripe("ban", 1000.0) is None


@given(NODES, st.integers(1, 200), CHANCE)
def test_collisions_double_the_wait_up_to_two_seconds(nodes: int, times: int, chance: float) -> None:
    """Without it 200 nodes collapse at 20 events a second."""
    waiting = pace(nodes, chance)
    waiting.waits("ban", 0.0, 0.0)

    for _ in range(times):
        waiting.collided(100.0, 0.0)

    longest = min(2.0, nodes * 0.002 * 2.0 ** min(times - 1, 30))
    assert 100.0 + longest / 2 - 1e-6 <= waiting.due <= 100.0 + longest + 1e-6


def test_a_read_between_two_collisions_does_not_shorten_the_wait() -> None:
    """Each attempt begins by reading."""
    waiting = pace(100, 0.0)
    waiting.waits("ban", 0.0, 0.0)
    for _ in range(3):
        waiting.collided(100.0, 0.0)
        waiting.answered(100.0, 0.0)

    assert waiting.due == pytest.approx(100.0 + 100 * 0.002 * 4 / 2)


def test_a_write_ends_the_back_off() -> None:
    """The next collision is the first one again."""
    waiting = pace(100, 0.0)
    waiting.waits("ban", 0.0, 0.0)
    waiting.collided(100.0, 0.0)
    waiting.collided(100.0, 0.0)
    waiting.wrote("ban", 101.0, 0.0)
    waiting.collided(102.0, 0.0)

    assert waiting.due == pytest.approx(102.1)


@given(st.integers(1, 50), CHANCE)
def test_a_log_that_does_not_answer_is_asked_at_least_every_two_seconds(times: int, chance: float) -> None:
    """And not all the time."""
    waiting = pace(1000, chance)
    waiting.waits("ban", 0.0, 0.0)

    for _ in range(times):
        waiting.failed(100.0)

    assert 100.1 <= waiting.due <= 102.0


@given(st.floats(0, 10**6), CHANCE)
def test_a_limit_of_requests_is_honoured_within_a_minute(retry_after: float, chance: float) -> None:
    """Whatever Consul asks for."""
    waiting = pace(1000, chance)
    waiting.waits("ban", 0.0, 0.0)

    waiting.failed(100.0, retry_after)

    assert 100.0 + min(retry_after, 60.0) <= waiting.due <= 100.0 + 75.0


def test_an_answer_ends_the_wait_for_one() -> None:
    """What piled up in an outage is written soon."""
    waiting = pace(5)
    waiting.waits("ban", 0.0, 0.0)
    waiting.failed(100.0, 60.0)

    waiting.answered(101.0, 0.0)

    assert 101.0 < waiting.due < 101.1


@given(st.booleans(), CHANCE)
def test_after_an_outage_all_but_the_writer_wait_anew(slow: bool, chance: float) -> None:  # noqa: FBT001 (drawn)
    """Hundreds of nodes find at the same moment that there is a leader again."""
    waiting, writer = pace(200, chance), pace(200, chance)
    writer.wrote("ban", 90.0, 0.0)
    for one in (waiting, writer):
        one.waits("ban", 95.0, 95.0)
        if not slow:
            one.failed(99.0)
        one.answered(100.0, 1.9 if slow else 0.0)

    assert writer.due <= 100.0 <= waiting.due
    assert waiting.due == pytest.approx(95.0 + 5.0 + _wait(200, chance))


def test_a_log_that_stays_slow_is_written_nevertheless() -> None:
    """Else nothing would ever be."""
    waiting = pace(200)
    waiting.waits("ban", 95.0, 95.0)
    waiting.answered(100.0, 1.0)
    due = waiting.due

    waiting.answered(102.0, 1.0)

    assert waiting.due == due


def _wait(nodes: int, chance: float) -> float:
    one = pace(nodes, chance)
    one.waits("ban", 0.0, 0.0)
    return one.due


def test_a_missing_right_is_asked_for_seldom() -> None:
    """It takes a person to grant it."""
    waiting = pace(5)
    waiting.waits("ban", 0.0, 0.0)

    waiting.refused(100.0)

    assert waiting.due == pytest.approx(100.0 + SELDOM)


def test_a_log_that_cannot_be_used_holds_up_no_other_name() -> None:
    """Its events are due again later, also those that are heard meanwhile."""
    waiting = pace(1)
    waiting.put_off("poisoned", 100.0)
    waiting.waits("poisoned", 101.0, 101.0)
    assert waiting.due == pytest.approx(100.0 + SELDOM)

    waiting.waits("ban", 102.0, 102.0)

    assert waiting.due == 102.0
    assert waiting.ripe("poisoned", 103.0) is None
    assert waiting.ripe("poisoned", 100.0 + 2 * SELDOM)


@given(NODES, st.integers(1, 200), CHANCE)
def test_a_backlog_is_left_to_the_node_at_work_for_twenty_seconds_at_most(
    nodes: int, times: int, chance: float
) -> None:
    """However often it is seen to write: what it has not heard must be written as well."""
    waiting = pace(nodes, chance)
    waiting.waits("ban", 100.0, 100.0)
    first = waiting.due

    for at in range(times):
        waiting.leave("ban", 100.0 + at / 5, 100.5)

    assert first <= waiting.due <= 120.0


def test_what_the_node_at_work_has_not_heard_is_not_left_to_it() -> None:
    """It has written what came a second later."""
    waiting = pace(200)
    waiting.waits("ban", 100.0, 100.0)
    due = waiting.due

    waiting.leave("ban", 101.5, 101.1)

    assert waiting.due == due


def test_only_the_backlog_of_its_name_is_left() -> None:
    """Others are written by others."""
    waiting = pace(200, 0.5)
    waiting.waits("ban", 100.0, 100.0)
    waiting.waits("deploy", 100.0, 100.0)
    due = waiting.due

    waiting.leave("ban", 100.3, 100.2)

    assert waiting.due == due
    assert waiting.ripe("ban", due) is None
    assert waiting.ripe("deploy", due) is not None

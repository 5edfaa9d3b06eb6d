"""How a list of events is judged by what was listed before, also before a restart of agentd."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ConsulUnavailable
from agentd.watch.changes import Event
from agentd.watch.client import EventClock
from agentd.watch.event_ring import RING, EventRing
from agentd.watch.judgement import Inquiry, Verdict
from agentd.watch.queries import EventQuery
from agentd.watch.query import Snapshot
from tests.unit.watch.sources import ScriptedSource, answer, event, identity


def ring(*numbers: int, index: int = 7, **facts: Any) -> Snapshot:  # noqa: ANN401 - Answer's own fields
    """A snapshot of the ring; the Lamport time of an event is its number."""
    return listed([event(number) for number in numbers], index, **facts)


def rebuilt(*numbers: int) -> Snapshot:
    """The same of a Consul that lost its data: other events with the same times."""
    return listed([event(number) | {"ID": identity(number, rebuilt=True)} for number in numbers])


def listed(events: list[dict[str, Any]], index: int = 7, **facts: Any) -> Snapshot:  # noqa: ANN401 - likewise
    """A snapshot of the ring, with these events in it."""
    return EventQuery().fetch(ScriptedSource([answer(events, index, **facts)]))


class Agent(Inquiry):
    """What an agent says when it is asked.

    Args:
        clock: its Lamport clock, None if it does not say.
        alone: whether it knows no other agent.
        refused: why the token may not read events.
        again: the list, when it is asked for once more.
    """

    def __init__(
        self,
        clock: int | None = None,
        *,
        node: str = "n1",
        alone: bool = False,
        refused: str | Exception | None = None,
        again: Snapshot | None = None,
    ) -> None:
        self._told = None if clock is None else EventClock(clock, node, alone)
        self._refused = refused
        self._again = again or ring()
        self.asked = 0

    def clock(self) -> EventClock | None:
        """Count the question."""
        self.asked += 1
        return self._told

    def refusal(self) -> str | None:
        """Why not, or an error."""
        if isinstance(self._refused, Exception):
            raise self._refused
        return self._refused

    def again(self) -> Snapshot:
        """The same list, or another."""
        return self._again


def judge(
    memory: EventRing, snapshot: Snapshot, clock: int | None = None, node: str = "n1", *, alone: bool = False
) -> Verdict:
    """Judge it with the right to read all events."""
    return memory.judge(snapshot, Agent(clock, node=node, alone=alone))


def after(
    memory: EventRing, snapshot: Snapshot, clock: int | None = None, node: str = "n1", *, alone: bool = False
) -> EventRing:
    """What is remembered then."""
    remembered = judge(memory, snapshot, clock, node, alone=alone).memory
    assert isinstance(remembered, EventRing)
    return remembered


def restarted(memory: EventRing) -> EventRing:
    """What another agentd knows of it, from the journal."""
    return EventRing.restored(json.loads(json.dumps(memory.kept())))


def events(verdict: Verdict) -> Sequence[Event]:
    """What is handed on."""
    return [change for change in verdict.news.changes if isinstance(change, Event)] if verdict.news else []


def ids(verdict: Verdict) -> list[str]:
    """The IDs of what is handed on."""
    return [change.id for change in events(verdict)]


# ---------------------------------------------------------------- what is new


def test_the_first_list_is_all_news() -> None:
    """The journal knows which of them were handled before a restart."""
    assert ids(judge(EventRing(), ring(1, 2, 3))) == [identity(1), identity(2), identity(3)]


def test_only_what_was_not_listed_before_is_news() -> None:
    """In the order of the ring, whatever the index says."""
    verdict = judge(after(EventRing(), ring(1, 2, index=900)), ring(1, 2, 4, 3, index=5))

    assert ids(verdict) == [identity(4), identity(3)]
    assert (verdict.gap, verdict.memory.index) == (None, 5)


def test_a_list_without_anything_new_is_no_news() -> None:
    """The wait was over."""
    assert judge(after(EventRing(), ring(1, 2)), ring(1, 2)).news is None


def test_events_that_a_restarted_agent_lists_again_are_no_news() -> None:
    """Gossip may bring old events back."""
    memory = after(after(EventRing(), ring(1, 2, 3)), ring())

    assert ids(judge(memory, ring(2))) == []


def test_a_ring_of_any_size_is_news_once() -> None:
    """Whatever answers as Consul, and lists more than an agent keeps."""
    many = range(1, 1001)
    memory = after(EventRing(), ring(*many))

    assert ids(judge(memory, ring(*many))) == []
    assert ids(judge(memory, ring(*many, 1001))) == [identity(1001)]


def test_an_event_that_follows_the_last_costs_no_further_question() -> None:
    """It is on the way to nginx, and the next thing to happen is its handler."""
    agent = Agent(9)

    after(EventRing(), ring(1, 2)).judge(ring(1, 2, 3), agent)

    assert agent.asked == 0


# ---------------------------------------------------------------- what has no date


def test_what_the_very_first_list_has_is_undated() -> None:
    """It may have been there for weeks."""
    assert [one.undated for one in events(judge(EventRing(), ring(1, 2)))] == [True, True]


def test_what_comes_after_an_empty_list_is_dated() -> None:
    """It is younger than that list."""
    memory = after(EventRing(), ring(), 5)

    for known in (memory, restarted(memory)):
        assert [one.undated for one in events(judge(known, ring(5)))] == [False]


def test_after_a_restart_what_was_listed_before_is_undated() -> None:
    """A handler that has it not yet is a new one, and when it was fired nobody knows."""
    memory = restarted(after(EventRing(), ring(1, 2)))

    verdict = judge(memory, ring(1, 2, 3))

    assert [(one.id, one.undated) for one in events(verdict)] == [
        (identity(1), True),
        (identity(2), True),
        (identity(3), False),
    ]


def test_with_the_tree_as_the_only_memory_nothing_is_handled_twice() -> None:
    """The journal is lost: what the generation holds was handled, except for what had to wait."""
    kept = after(EventRing(), ring(1, 2, 3, 4)).kept() | {"owed": [identity(2)]}

    verdict = judge(EventRing.restored(kept), ring(1, 2, 3, 4, 5))

    assert [(one.id, one.undated) for one in events(verdict)] == [(identity(2), False), (identity(5), False)]


# ---------------------------------------------------------------- what was missed


def test_a_ring_that_overflowed_is_counted() -> None:
    """300 events since the last list: 44 were never seen."""
    verdict = judge(after(EventRing(), ring(*range(1, 11))), ring(*range(55, 55 + RING)))

    assert (verdict.gap, verdict.missed, len(events(verdict))) == ("overflow", 44, RING)
    assert verdict.news
    assert verdict.news.missed == 44


def test_an_overflow_while_agentd_was_down_is_counted() -> None:
    """The same 300, with a restart in between, and the sum is remembered."""
    memory = restarted(after(EventRing(), ring(*range(1, 11))))

    verdict = judge(memory, ring(*range(55, 55 + RING)), 55 + RING)

    assert (verdict.gap, verdict.missed) == ("overflow", 44)
    assert restarted(after(memory, ring(*range(55, 55 + RING)))).missed == 44


def test_a_ring_that_turned_exactly_once_missed_nothing() -> None:
    """The last seen event is gone, but so is no other."""
    verdict = judge(after(EventRing(), ring(*range(1, 11))), ring(*range(11, 11 + RING)))

    assert (verdict.gap, verdict.missed) == ("overflow", 0)


def test_a_clock_that_somebody_set_counts_no_events() -> None:
    """Any member of the gossip can make it leap to 2**63, and the count stands in the status for ever."""
    memory = after(EventRing(), ring(1, 2))
    leap = listed([event(3) | {"LTime": 2**63}])

    verdict = judge(memory, leap, clock=2**63 + 1)
    cleared = judge(memory, ring(), clock=2**64 - 1)

    assert (ids(verdict), verdict.gap, verdict.missed) == ([identity(3)], "restart", 1)
    assert (cleared.gap, cleared.missed) == ("restart", 1)


def test_an_event_from_far_in_the_future_makes_no_later_one_old() -> None:
    """The next ordinary one begins an epoch, so that it is newer."""
    memory = after(EventRing(), ring(1, 2))
    leap = [event(1), event(2), event(3) | {"LTime": 2**64 - 1}]

    memory = after(memory, listed(leap))
    verdict = judge(memory, listed([*leap, event(4), event(5)]))

    assert ids(verdict) == [identity(4), identity(5)]
    assert events(verdict)[0].order > (0, 2**64 - 1, "")


def test_what_an_agent_missed_is_told_by_its_clock() -> None:
    """It was down for 7 events; its ring is empty, and no event is waited for."""
    verdict = judge(after(EventRing(), ring(1, 2, 3), 4), ring(), 12)

    assert (verdict.gap, verdict.missed) == ("restart", 7)
    assert verdict.news
    assert (list(verdict.news.changes), verdict.news.missed) == ([], 7)


def test_what_an_agent_missed_is_told_once_it_has_joined_the_others() -> None:
    """It answers before; then its clock jumps. What came before the next event is not counted twice."""
    memory = after(EventRing(), ring(1, 2, 3), 4)
    at_once, joined, first = [], [], []
    memory = after(memory, ring(), 4)
    at_once.append(memory.missed)
    memory = after(memory, ring(), 12)
    joined.append(memory.missed)
    memory = after(memory, ring(12))
    first.append(memory.missed)

    assert (at_once, joined, first) == ([0], [7], [7])


@pytest.mark.parametrize("late", [1, 2, 3, 10])
@pytest.mark.parametrize("clock_late", [False, True])
def test_an_agent_that_joins_late_tells_what_it_missed(late: int, *, clock_late: bool) -> None:
    """However many lists were empty before, and although it may know the others before their clock."""
    memory = after(EventRing(), ring(1, 2, 3), 4)
    for _ in range(late):
        memory = after(memory, ring(), 4, alone=True)
    if clock_late:
        memory = after(memory, ring(), 4)

    assert judge(memory, ring(), 12).missed == 7


def test_an_agent_without_others_misses_nothing() -> None:
    """Its clock ticks for elections."""
    memory = after(EventRing(), ring(1, 2, 3), 4)
    for clock in (4, 5, 5, 9, 12):
        memory = after(memory, ring(), clock, alone=True)

    assert memory.missed == 0


def test_what_was_missed_while_both_were_down_is_told_by_the_clock() -> None:
    """Agent and agentd start again, and the ring is empty."""
    memory = restarted(after(EventRing(), ring(1, 2, 3), 4))

    assert judge(memory, ring(), 12).missed == 7


def test_a_connection_that_broke_is_reason_to_count_again() -> None:
    """A quiet agent was restarted again."""
    memory = after(EventRing(), ring(1, 2, 3), 4)
    for _ in range(4):
        memory = after(memory, ring(), 4)

    memory = after(memory.interrupted(), ring(), 10)

    assert memory.missed == 5


def test_elections_are_no_events() -> None:
    """A restarted server elects a leader, which ticks once; later ones tick while the ring shows it all."""
    memory = after(EventRing(), ring(1, 2, 3), 4)
    for snapshot, clock in ((ring(), 4), (ring(), 5), (ring(), 5), (ring(), 9), (ring(9), 10), (ring(9), 14)):
        memory = after(memory, snapshot, clock)

    assert memory.missed == 0
    assert after(memory, ring(14), 15).missed == 0


def test_a_restart_is_told_once() -> None:
    """The empty list told it; nothing was missed."""
    memory = after(EventRing(), ring(1, 2, 3), 4)
    empty = judge(memory, ring(), 4)
    again = judge(after(memory, ring(), 4), ring(), 4)
    first = judge(after(after(memory, ring(), 4), ring(), 4), ring(4))

    assert [verdict.gap for verdict in (empty, again, first)] == ["restart", None, None]
    assert [verdict.missed for verdict in (empty, again, first)] == [0, 0, 0]


def test_the_first_start_missed_nothing() -> None:
    """Whatever the clock says: what was before is no loss of ours."""
    for first in (ring(), ring(900)):
        verdict = judge(EventRing(), first, 901)
        assert (verdict.gap, verdict.missed) == (None, 0)


def test_what_a_token_may_not_read_is_not_missed() -> None:
    """The clock ticks for it all the same."""
    memory = after(EventRing(), ring(1, 2, 3), 4)

    old = memory.judge(ring(100), Agent(101, refused="no right"))
    newer = memory.judge(ring(100, filtered_by_acls=True), Agent(101))

    assert (old.missed, newer.missed) == (0, 0)


def test_an_event_between_two_questions_is_not_missed() -> None:
    """The list was empty, and the clock already knew the next event."""
    memory = after(EventRing(), ring(1, 2, 3), 4)

    verdict = memory.judge(ring(), Agent(9, again=ring(4, 5, 6, 7, 8)))

    assert verdict.missed == 0
    assert isinstance(verdict.memory, EventRing)
    assert judge(verdict.memory, ring(4, 5, 6, 7, 8), 9).missed == 0


@pytest.mark.parametrize("error", [ConsulUnavailable("no leader"), None])
def test_an_empty_list_is_held_if_the_token_may_not_read_it(error: Exception | None) -> None:
    """With ACLs it stays empty for ever, without an error; the poll goes on in any case."""
    verdict = EventRing().judge(ring(), Agent(refused=error or "no right"))

    assert verdict.held == f"event list is empty: {error or 'no right'}"
    assert judge(EventRing(), ring()).held is None


@given(st.lists(st.integers(0, 400) | st.none(), max_size=12))
def test_no_event_is_lost_or_delivered_twice(polls: list[int | None]) -> None:
    """Any number of events between two lists, and restarts (None) that empty the ring: against a model."""
    memory = EventRing()
    fired, buffer = 0, list[int]()
    delivered: list[int] = []
    shown: set[int] = set()
    for count in polls:
        if count is None:
            buffer = []
        else:
            buffer = [*buffer, *range(fired + 1, fired + count + 1)][-RING:]
            fired += count
        verdict = judge(memory, ring(*buffer), fired + 1)
        memory = after(memory, ring(*buffer), fired + 1)
        shown.update(buffer)
        delivered += [int(one[:8], 16) for one in ids(verdict)]

    assert delivered == sorted(shown)
    if polls and polls[0] is not None:  # what came before the first list cannot be known
        unseen = max(0, fired - len(shown) - (polls[0] - min(polls[0], RING)))
        assert unseen - polls.count(None) <= memory.missed <= unseen


# ---------------------------------------------------------------- epochs


def test_a_late_event_is_of_the_same_epoch() -> None:
    """Gossip brings events out of order, and the agent's clock does not go back for that."""
    (late,) = events(judge(after(EventRing(), ring(100)), ring(100, 90)))

    assert (late.epoch, late.order < (0, 100, identity(100))) == (0, True)


@pytest.mark.parametrize("clock", [4, None])
def test_a_clock_that_went_back_begins_an_epoch(clock: int | None) -> None:
    """Consul's data was lost: what comes now is newer than all that came before, whatever its time."""
    memory = after(EventRing(), ring(499, 500), 501)

    verdict = judge(memory, rebuilt(2, 3), clock)
    next_one = judge(after(memory, rebuilt(2, 3), clock), rebuilt(2, 3, 4))

    assert (verdict.gap, verdict.missed, [one.epoch for one in events(verdict)]) == ("epoch", 0, [1, 1])
    assert [one.epoch for one in events(next_one)] == [1]


def test_an_epoch_that_began_while_agentd_was_down_is_seen() -> None:
    """Also when the new clock has passed the old one."""
    memory = restarted(after(EventRing(), ring(1, 2, 3), 4))

    verdict = judge(memory, rebuilt(*range(2, 10)), 10)

    assert {one.epoch for one in events(verdict)} == {1}
    assert restarted(after(memory, rebuilt(*range(2, 10)), 10)).epoch == 1


def test_an_epoch_whose_ring_overflowed_is_seen_by_the_new_agent() -> None:
    """Its list is full, so that only the ID of the agent shows that it has lost its data."""
    memory = restarted(after(EventRing(), ring(*range(1, 101)), 101))
    new = rebuilt(*range(50, 50 + RING))

    assert {one.epoch for one in events(judge(memory, new, 50 + RING, "n2"))} == {1}
    assert {one.epoch for one in events(judge(memory, new, 50 + RING, "n1"))} == {0}


def test_an_agent_that_has_yet_to_join_the_others_begins_no_epoch() -> None:
    """Its clock is behind only until then, and no event came of it."""
    memory = after(after(EventRing(), ring(99, 100), 101), ring(), 1)

    (only,) = events(judge(memory, ring(101), 102))

    assert only.epoch == 0


def test_an_agent_that_lost_its_data_alone_harms_no_order() -> None:
    """What it lists from then on is newer than all before it in any case."""
    memory = after(after(EventRing(), ring(99, 100), 101), ring(), 1, "n2")

    (only,) = events(judge(memory, ring(101), 102, "n2"))

    assert only.order > (0, 100, identity(100))


@pytest.mark.parametrize("time", [None, "abc", {}, 1e30, -5, True, 10**400])
def test_a_time_that_is_none_holds_up_no_event(time: object) -> None:
    """Such an event is dropped; the next one is handed on, in the same epoch."""
    odd = event(101) | {"LTime": time}
    memory = after(EventRing(), ring(99, 100), 101)

    first = judge(memory, listed([event(99), event(100), odd]), 102)
    assert isinstance(first.memory, EventRing)
    then = judge(first.memory, listed([event(99), event(100), odd, event(102)]), 103)

    assert [*ids(first), *ids(then)] == [identity(102)]
    assert (first.gap, then.gap, events(then)[0].epoch) == (None, None, 0)


def test_a_time_that_no_event_can_follow_pins_nothing() -> None:
    """The agent's clock turned over: the next event is newer, in the same run of the agent."""
    huge = 2**64 - 1
    memory = restarted(after(EventRing(), ring(5, huge), 0))

    verdict = judge(memory, ring(5, huge, 0), 1)

    newest = max(events(verdict), key=lambda one: one.order)
    assert newest.ltime == 0


# ---------------------------------------------------------------- nodes agree


@dataclass
class Node:
    """One node of the model: its agent's ring, what its agentd remembers, and the events it heard."""

    memory: EventRing = field(default_factory=EventRing)
    buffer: list[dict[str, Any]] = field(default_factory=list)
    clock: int = 1
    data: int = 0
    heard: dict[str, Event] = field(default_factory=dict)

    def look(self) -> None:
        """List, judge, remember; the journal keeps what it got first."""
        verdict = judge(self.memory, listed(self.buffer), self.clock, f"data-{self.data}")
        for one in events(verdict):
            self.heard.setdefault(one.id, one)
        assert isinstance(verdict.memory, EventRing)
        self.memory = verdict.memory

    def order(self) -> list[str]:
        """All that it heard, from the oldest to the newest."""
        return [one.id for one in sorted(self.heard.values(), key=lambda one: one.order)]


@given(st.data())
def test_nodes_that_heard_events_in_different_orders_agree(data: st.DataObject) -> None:
    """Any order within an epoch, any looks, restarts of agentd, losses of Consul's data, any times."""
    nodes = [Node(), Node()]
    epochs = data.draw(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=4))
    for number, times in enumerate(epochs):
        sent = [
            replace_id(event(time), f"{data.draw(st.integers(0, 9)):08x}-{number:04x}-4000-8000-{at:012x}")
            for at, time in enumerate(times)
        ]
        for node in nodes:
            node.buffer, node.clock, node.data = [], 1, number
            for one in data.draw(st.permutations(sent)):
                node.buffer.append(one)
                node.clock = max(node.clock, one["LTime"] + 1)
                if data.draw(st.booleans()):
                    node.look()
                if data.draw(st.booleans()):
                    node.memory = restarted(node.memory)
            node.look()

    assert nodes[0].order() == nodes[1].order()
    assert int(nodes[0].order()[-1].split("-")[1], 16) == len(epochs) - 1


def replace_id(raw: dict[str, Any], identity: str) -> dict[str, Any]:
    """The same event with another ID."""
    return raw | {"ID": identity}


def test_an_epoch_is_kept_with_the_rest() -> None:
    """As JSON, and whatever is not known stays unknown."""
    memory = replace(EventRing(), last="a", ltime=2**64 - 1, epoch=2, clock=None, node="n", missed=3)

    assert restarted(memory).kept() == memory.kept()


# ---------------------------------------------------------------- events that cannot be used


def test_an_event_that_was_dropped_is_not_missed() -> None:
    """The last known one left the ring, and of those that came since, some are odd."""
    nameless = [event(number) | {"Name": None} for number in range(3, 200)]
    memory = after(EventRing(), ring(1, 2), 3)

    verdict = judge(memory, listed([*nameless, *(event(number) for number in range(200, 259))]), 259)

    assert (verdict.gap, verdict.missed) == ("overflow", 0)
    assert len(events(verdict)) == 59


def test_a_ring_of_odd_events_is_no_empty_one() -> None:
    """The agent was not restarted, nothing is missed, and what comes next is delivered."""
    memory = after(EventRing(), ring(1, 2), 3)

    first = judge(memory, listed([event(3) | {"Name": 7}]), 4)
    assert (first.news, first.gap, first.held) == (None, None, None)
    assert isinstance(first.memory, EventRing)
    then = judge(first.memory, listed([event(2), event(3) | {"Name": 7}, event(4)]), 5)

    assert (ids(then), then.gap, then.missed) == ([identity(4)], None, 0)

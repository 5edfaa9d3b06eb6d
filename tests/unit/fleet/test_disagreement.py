"""Nodes that differ after the same messages are told, also while numbers move on; slow ones are not."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from agentd.accounts import MOST_STATES, State
from agentd.fleet.disagreement import SETTLED, Lived, disagreeing
from agentd.fleet.past import encode

START = 1_700_000_000.0


@dataclass
class Simulated:
    """A node that comes to what the messages and the timed work say, each when it does.

    Attributes:
        lags: seconds by which it is late with each message.
        late: seconds by which it is late with each end of an entry.
        wrong: from this message on it has come to something else; None: it is right.
    """

    lags: Sequence[float]
    late: Sequence[float]
    wrong: int | None = None
    moments: list[tuple[float, str, int]] = field(default_factory=list)

    def past(self, messages: Sequence[float], ends: Sequence[float], now: float) -> str:
        """What it tells at `now` if messages and ends of entries are due at those times."""
        taken = accumulate((at + lag for at, lag in zip(messages, self.lags, strict=True)), max)
        moments = [(at, 0, number) for number, at in enumerate(taken)]
        moments += [
            (at + late, 1, number) for number, (at, late) in enumerate(zip(ends, self.late, strict=True))
        ]
        states: deque[State] = deque(maxlen=MOST_STATES)
        place, ended = -1, frozenset[int]()
        for at, kind, number in sorted(moments):
            if at > now:
                break
            place, ended = (place, ended | {number}) if kind else (number, ended)
            is_wrong = self.wrong is not None and place >= self.wrong
            states.append(State(f"{place + 1:x}", f"{place} {sorted(ended)} {is_wrong}", at))
        return encode(states)


def told(
    nodes: Sequence[Simulated], messages: Sequence[float], ends: Sequence[float], now: float
) -> list[int]:
    """Who disagrees at `now`."""
    lived = [Lived(str(n), one.past(messages, ends, now), now) for n, one in enumerate(nodes)]
    return sorted(int(node) for node, _ in disagreeing(lived))


def times(gaps: Sequence[float]) -> list[float]:
    """Moments with these seconds between them."""
    return list(accumulate(gaps, initial=START))[1:]


def seconds(least: float, most: float) -> st.SearchStrategy[float]:
    """Seconds to a tenth."""
    return st.integers(int(least * 10), int(most * 10)).map(lambda tenths: tenths / 10)


@st.composite
def late_with_messages(draw: st.DrawFn) -> tuple[list[Simulated], list[float], list[float]]:
    """Nodes that are right, and late with messages by anything; their timed work is in time."""
    messages = times(draw(st.lists(seconds(0.1, draw(seconds(1, 60))), min_size=1, max_size=30)))
    ends = times([draw(seconds(0.5, 60))] * draw(st.integers(0, 30)))
    nodes = []
    for _ in range(draw(st.integers(2, 3))):
        lags = st.lists(seconds(0, draw(seconds(0, 100))), min_size=len(messages), max_size=len(messages))
        late = st.lists(seconds(0, 0.5), min_size=len(ends), max_size=len(ends))
        nodes.append(Simulated(draw(lags), draw(late)))
    return nodes, messages, ends


@st.composite
def late_with_timed_work(draw: st.DrawFn) -> tuple[list[Simulated], list[float], list[float]]:
    """Nodes that are right, but late with each end of an entry, though not until the next one.

    Those that are later still may differ from the others all the time, and are told with good reason.
    """
    messages = times(draw(st.lists(seconds(0.1, draw(seconds(1, 60))), min_size=1, max_size=30)))
    behind = draw(st.sampled_from([0, 1, 12, 24]))
    ends = times([draw(seconds(behind + 4.1, 60))] * draw(st.integers(0, 30)))
    jitters = st.lists(seconds(0, 4), min_size=len(ends), max_size=len(ends))
    nodes = [
        Simulated([0] * len(messages), [late + one for one in draw(jitters)])
        for late in draw(st.lists(st.sampled_from([0, behind]), min_size=2, max_size=3))
    ]
    return nodes, messages, ends


@given(late_with_messages() | late_with_timed_work(), seconds(0, 2000))
def test_nodes_that_come_to_the_same_never_disagree(
    fleet: tuple[list[Simulated], list[float], list[float]], after: float
) -> None:
    """However slow they are, in whatever order things happen on them, and whenever somebody looks."""
    nodes, messages, ends = fleet

    assert told(nodes, messages, ends, START + after) == []


@given(
    gaps=st.lists(seconds(3, 10), min_size=40, max_size=40),
    pauses=st.lists(seconds(8, 40), min_size=30, max_size=30),
    lags=st.lists(st.lists(seconds(0, 1.5), min_size=70, max_size=70), min_size=3, max_size=6),
    wrong=st.integers(0, 10),
    after=seconds(100, 120),
)
def test_who_differs_is_told_under_constant_traffic(
    gaps: list[float], pauses: list[float], lags: list[list[float]], wrong: int, after: float
) -> None:
    """A message every few seconds, and entries that end between them; one look is enough, at any moment."""
    messages, ends = times(gaps), times(pauses)
    nodes = [Simulated(one[:40], one[40:]) for one in lags]
    nodes[-1].wrong = wrong

    assert told(nodes, messages, ends, messages[wrong] + after) == [len(nodes) - 1]


def test_who_agrees_again_is_not_told_any_more() -> None:
    """With the first state that it has in common with the others."""
    right = [State("1", "a", START), State("2", "b", START + 100)]
    wrong = [State("1", "x", START), State("2", "b", START + 101)]

    def look(at: float) -> list[str]:
        nodes = [Lived(str(n), encode([one for one in states if one.since <= at]), at)
                 for n, states in enumerate((right, right, wrong))]  # fmt: skip
        return [node for node, _ in disagreeing(nodes)]

    assert look(START + 20) == []
    assert look(START + SETTLED) == ["2"]
    assert look(START + 100) == ["2"]
    assert look(START + 102) == []


def test_most_are_right_wherever_they_are_at_the_moment() -> None:
    """Few at one number do not outweigh many that are spread over others."""
    bad = encode([State("1", "x", START), State("2", "y", START + 40)])
    good = [State("1", "a", START), State("2", "b", START + 40)]
    nodes = [Lived(f"bad{n}", bad, START + 50) for n in range(3)]
    for n in range(8):
        states = [*good, *(State(f"{10 + n}", f"c{number}", START + 50) for number in range(1))]
        nodes.append(Lived(f"good{n}", encode(states), START + 51))

    found = dict(disagreeing(nodes))

    assert sorted(found) == ["bad0", "bad1", "bad2"]
    assert found["bad0"].endswith("on 8 nodes like it")


def test_two_against_two_are_all_told() -> None:
    """Nobody knows which of them are right."""
    nodes = [Lived(str(n), encode([State("1", "ab"[n % 2], START)]), START + 60) for n in range(4)]

    assert [node for node, _ in disagreeing(nodes)] == ["0", "2", "1", "3"]


def test_where_all_differ_all_are_told() -> None:
    """However many they are, as before the first rotation of the ticket keys."""
    nodes = [Lived(str(n), encode([State("1", f"{n}", START)]), START + 60) for n in range(30)]

    assert len(list(disagreeing(nodes))) == 30


def test_junk_is_compared_with_nobody() -> None:
    """Whoever may write there may write anything."""
    good = encode([State("1", "a", START)])
    junk = ["", "1/2", f"{good} x", "1/-/1700000000", "1/a/" + "9" * 30, good.replace("/", " ")]

    nodes = [Lived(str(n), past, START + 60) for n, past in enumerate([good, good, *junk])]

    assert list(disagreeing(nodes)) == []


def test_a_node_that_has_just_come_hides_no_others() -> None:
    """It has not differed from anybody for long, whichever of them is looked at first."""
    now = START + 100
    began = {"new": now - 5, "old": START, "older": START - 5}
    lived = [Lived(node, encode([State("1", node, since)]), now) for node, since in began.items()]
    assert {node for node, _ in disagreeing(lived)} == {"old", "older"}

"""How many nodes are enough, and when they cannot become enough any more."""

from __future__ import annotations

import io
from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.fleet_tally import Tally, Teller, tally
from agentd.commands.wait_for_fleet import percentage
from agentd.fleet.acknowledgement import Acknowledgement, Name, Tried
from agentd.fleet.newest import Newest
from agentd.fleet.standing import Member, Progress

NEWEST = Newest("blocked", 20, issued=100.0, expires=200.0)


def counted(confirmed: int, refused: int, waiting: int, quorum: float = 1.0) -> Tally:
    """A tally of so many nodes."""
    made = {
        state: tuple(Progress(f"{state}{at}", state) for at in range(count))  # type: ignore[arg-type] # of three
        for state, count in (("confirmed", confirmed), ("refused", refused), ("waiting", waiting))
    }
    return Tally(made["confirmed"], made["refused"], made["waiting"], quorum)


@pytest.mark.parametrize(
    "found, enough, hopeless",
    [
        (counted(3, 0, 0), True, False),
        (counted(2, 0, 1), False, False),
        (counted(2, 1, 0), False, True),
        (counted(0, 1, 9), False, True),
        (counted(9, 1, 0, 0.9), True, False),
        (counted(8, 1, 1, 0.9), False, False),
        (counted(8, 2, 0, 0.9), False, True),
        (counted(7, 0, 93, 0.07), True, False),
        (counted(1, 0, 2, 0.01), True, False),
        (counted(0, 0, 0), False, True),
    ],
)
def test_enough_and_hopeless(found: Tally, *, enough: bool, hopeless: bool) -> None:
    """Of all that count, refusals included."""
    assert (found.enough, found.hopeless) == (enough, hopeless)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 100))
def test_never_both_and_in_the_end_one_of_them(
    confirmed: int, refused: int, waiting: int, percent: int
) -> None:
    """Once nobody is waited for any more, it is decided."""
    found = counted(confirmed, refused, waiting, percentage(f"{percent}%"))
    assert not (found.enough and found.hopeless)
    assert waiting or found.enough or found.hopeless
    assert found.needed >= 1


def test_who_counts_takes_the_name_and_is_meant() -> None:
    """A node without a document, or with other names, is not waited for; one that refuses is."""
    states = {
        "a": Name(live=20),
        "b": Name(live=10),
        "c": Name(live=10, tried=Tried(20, "refused", "line 3")),
    }
    members = [
        Member(node, Acknowledgement("1", node, "boot", 1.0, names={"blocked": state}))
        for node, state in states.items()
    ]
    members += [Member("d", Acknowledgement("1", "d", "boot", 1.0, names={"deploy": Name()})), Member("e")]
    found = tally(members, NEWEST, 100.0, 1.0)
    assert [one.node for one in (*found.confirmed, *found.waiting, *found.refused)] == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1", "1.5", "", "%", "\u0661"])
def test_what_is_no_percentage(text: str) -> None:
    """It is said so."""
    with pytest.raises(ArgumentTypeError, match="is not a percentage"):
        percentage(text)


def test_a_percentage_may_leave_out_its_sign() -> None:
    """As people type it."""
    assert percentage("90") == percentage("90%") == 0.9


def test_nodes_that_hold_it_back_are_told_at_once_and_with_their_number() -> None:
    """Each reason once, however many nodes there are; they may do so for days, so they are not waited for."""
    some = tuple(Progress(f"n{at}", "waiting", "waits: frozen by ops: night", held=True) for at in range(3))
    found = Tally(
        (Progress("a", "confirmed"),), (), (*some, Progress("b", "waiting", "still applying it")), 1.0
    )
    shown = io.StringIO()
    teller = Teller(shown, "deploy 7", quiet=False)
    teller.tell(found)
    teller.tell(found)

    assert shown.getvalue() == "agentd: n0 and 2 more: waits: frozen by ops: night\n"
    assert found.held
    assert not found.hopeless
    assert not Tally(found.confirmed, (), found.waiting, 0.4).held

"""Which keys of a ring belong into HAProxy's three slots, and how they get there one by one."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.tls_ticket_keys.ring import TicketKey
from handlers.tls_ticket_keys.slots import Slots, Window

OLD, NOW, NEXT, LATER, STRANGE, OTHER = (random.Random(seed).randbytes(80) for seed in range(6))
SHORT = random.Random(6).randbytes(48)
ALL = (OLD, NOW, NEXT, STRANGE, OTHER)
windows = st.tuples(*[st.sampled_from(ALL)] * 3)
rings = st.builds(
    lambda keys, waiting, former, own: Slots(keys[0], keys[1:waiting], keys[2:former], keys[4:own]),
    st.permutations(ALL).map(tuple),
    st.integers(1, 2),
    st.integers(2, 4),
    st.integers(4, 5),
)


def after(window: Window, pushed: Sequence[bytes]) -> list[Window]:
    """The slots after each push, the first as they are before."""
    keys = (*window, *pushed)
    return [(keys[at], keys[at + 1], keys[at + 2]) for at in range(len(keys) - 2)]


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "slots, window",
    [
        (Slots(NOW), (NOW, NOW, NOW)),
        (Slots(NOW, (NEXT,)), (NOW, NOW, NEXT)),
        (Slots(NOW, (), (OLD, STRANGE)), (OLD, NOW, NOW)),
        (Slots(NOW, (NEXT, LATER), (OLD,)), (OLD, NOW, NEXT)),
        (Slots(NOW, (SHORT,), (SHORT,)), (NOW, NOW, NOW)),
        (Slots(NOW, (), (), (STRANGE,)), (STRANGE, NOW, NOW)),
        (Slots(NOW, (), (OLD,), (STRANGE,)), (OLD, NOW, NOW)),
    ],
    ids=["alone", "staged", "promoted", "full", "another length", "a key of its own", "and a former one"],
)
def test_the_file(slots: Slots, window: Window) -> None:
    """Three keys a line each, the last but one encrypts; never one that is not in the ring."""
    assert slots.window == window
    assert slots.file().split() == [base64.b64encode(key) for key in window]


def test_a_ring_is_sorted_into_the_slots() -> None:
    """What waits, the first to encrypt first, and what encrypted before."""

    def key(received: float, demoted: float | None = None, path: str = "") -> TicketKey:
        return TicketKey((0, 0, ""), "", path, received, demoted=demoted)

    ring = (key(5), key(9), key(7), key(3, demoted=5), key(1, demoted=3, path="own"))

    made = Slots.of(ring, [NOW, LATER, NEXT, OLD, OTHER], ["own"])
    assert made == Slots(NOW, (NEXT, LATER), (OLD,), (OTHER,))


def test_nothing_shows_a_key() -> None:
    """Not even what a traceback or a failed assertion prints."""
    assert repr(Slots(NOW, (NEXT,), (OLD,))) == "Slots()"


# ---------------------------------------------------------------- at run time


def test_a_rotation_is_a_push_a_step() -> None:
    """The former key leaves, the next one comes, it encrypts; and so again."""
    window, pushed = (OLD, NOW, NOW), []
    for slots in (Slots(NOW), Slots(NOW, (NEXT,)), Slots(NEXT, (), (NOW,)), Slots(NEXT)):
        pushes = slots.pushes(window)
        assert pushes is not None
        pushed.append(pushes)
        window = after(window, pushes)[-1]

    assert pushed == [(NOW,), (NEXT,), (NEXT,), (NEXT,)]
    assert window == (NEXT, NEXT, NEXT)


def test_a_next_key_takes_the_place_of_a_former_one() -> None:
    """There are only three slots, and a key can only be pushed."""
    slots = Slots(NOW, (NEXT,), (OLD,))

    assert slots.pushes((OLD, NOW, NOW)) == (NEXT,)
    assert slots.held_by((NOW, NOW, NEXT))
    assert slots.held_by((OLD, NOW, NEXT))


def test_revoked_keys_leave_one_by_one() -> None:
    """None of them is safe, so it does not matter which encrypts for another microsecond."""
    assert Slots(OTHER).pushes((NOW, NOW, NEXT)) == (OTHER, OTHER, OTHER)


def test_a_key_that_only_waits_never_encrypts() -> None:
    """It was staged and then given up, or another program pushed it: only a reload takes it away."""
    assert Slots(NOW).pushes((NOW, NOW, NEXT)) is None
    assert Slots(NOW, (OTHER,)).pushes((NOW, NOW, NEXT)) is None


def test_a_key_of_this_node_alone_is_never_pushed() -> None:
    """It stays while it is there and in the ring; a push would let it encrypt for a moment."""
    slots = Slots(NOW, (), (), (STRANGE,))

    assert slots.held_by((STRANGE, NOW, NOW))
    assert slots.pushes((OLD, NOW, NOW)) == (NOW,)


def test_another_length_needs_a_reload() -> None:
    """HAProxy takes no key of another length than those it was started with."""
    assert Slots(SHORT).pushes((NOW, NOW, NOW)) is None


def test_a_key_of_another_length_is_told() -> None:
    """It cannot be held beside the one that encrypts; of a former one nothing is lost that could be kept."""
    assert Slots(NOW, (SHORT, NEXT)).misfit
    assert Slots(NOW, (SHORT,), (OLD,)).pushes((NOW, NOW, NOW)) == (OLD, NOW, NOW)
    assert not Slots(NOW, (NEXT,), (SHORT,)).misfit


@given(rings, windows)
def test_pushes_end_where_they_should(slots: Slots, window: Window) -> None:
    """Only keys of the ring are pushed, at most three; then the right keys are in the slots."""
    pushes = slots.pushes(window)

    if pushes is not None:
        assert len(pushes) <= 3
        assert {*pushes} <= {slots.encrypting, *slots.waiting, *slots.former}
        assert slots.held_by(after(window, pushes)[-1])


@given(rings, windows)
def test_what_encrypts_on_the_way_is_known_everywhere(slots: Slots, window: Window) -> None:
    """Unless a key encrypts at first that is not: then it does not get worse."""
    pushes = slots.pushes(window) or ()
    known = {slots.encrypting, *slots.former}
    if window[1] in known:
        assert {middle for _, middle, _ in after(window, pushes)} <= known


@given(rings, windows)
def test_no_shorter_way_is_missed(slots: Slots, window: Window) -> None:
    """Compared with trying everything."""
    keys = (slots.encrypting, *slots.waiting, *slots.former)
    known = {slots.encrypting, *slots.former}
    start = window[1]

    def good(pushed: Sequence[bytes]) -> bool:
        steps = after(window, pushed)
        free = start not in {*keys, *slots.own}
        middles = [middle for _, middle, _ in steps]
        fine = all(one in known or one == before for before, one in pairwise(middles))
        return slots.held_by(steps[-1]) and (free or fine)

    fewest = next((count for count in range(4) if any(map(good, product(keys, repeat=count)))), None)
    pushes = slots.pushes(window)
    assert (None if pushes is None else len(pushes)) == fewest


@given(rings)
def test_what_it_starts_with_is_right(slots: Slots) -> None:
    """A HAProxy that reads the file needs no push."""
    assert slots.pushes(slots.window) == ()

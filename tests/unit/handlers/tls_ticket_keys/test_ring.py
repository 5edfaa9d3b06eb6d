"""The rules of the ring, as properties over any events in any order at any time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import LOG_EPOCH
from handlers.tls_ticket_keys.ring import UNCOUNTED, Ring, Schedule, TicketKey, admit, next_step, settle

SCHEDULE = Schedule(promote_after=60.0, retire_after=3600.0, keep=3)
DAY = 86_400.0
RANDOM = (UNCOUNTED, 0, "")


def ticket_key(number: int, received: float = 0.0, *, ltime: int | None = None, epoch: int = 0) -> TicketKey:
    """Key `number`, brought by an event of that Lamport time."""
    order = (epoch, number if ltime is None else ltime, f"event-{number}")
    return TicketKey(order, f"{number:032x}", f"tickets/{number}.key", received)


def received(arrivals: list[tuple[TicketKey, float]], schedule: Schedule, ring: Ring = ()) -> Ring:
    """The ring after the keys have arrived, each at its time."""
    for key, at in arrivals:
        ring = settle(admit(ring, replace(key, received=at)), at, schedule)
    return ring


def initial() -> Ring:
    """The ring of a node that has only its own random key."""
    return settle((replace(ticket_key(999), order=RANDOM),), 0.0, SCHEDULE)


def fleet(ring: Ring) -> list[str]:
    """The files of the keys that came from events, in order."""
    return [key.path for key in ring if key.order != RANDOM]


numbers = st.lists(st.integers(1, 40), min_size=1, max_size=12, unique=True)
schedules = st.builds(
    Schedule, st.sampled_from([0.0, 1.0, 60.0]), st.just(3600.0), st.integers(min_value=1, max_value=6)
)


@given(numbers, st.data())
def test_the_order_of_the_log_counts(keys: list[int], data: st.DataObject) -> None:
    """Whichever of them a node had heard before, and in whatever order it heard them."""
    heard = data.draw(st.lists(st.sampled_from(keys), unique=True))
    logged = [
        replace(ticket_key(one), order=(LOG_EPOCH, num, f"event-{one}")) for num, one in enumerate(keys)
    ]
    early = [(ticket_key(one), 0.0) for one in heard]
    late = [(key, 0.0) for key in logged]

    rings = [settle(received(some, SCHEDULE, initial()), 200.0, SCHEDULE) for some in ([*early, *late], late)]

    assert fleet(rings[0]) == fleet(rings[1])


@given(numbers, st.data(), schedules)
def test_every_order_ends_with_the_same_ring(
    keys: list[int], data: st.DataObject, schedule: Schedule
) -> None:
    """Two nodes that received the same keys in different orders have the same ring once all are promoted."""
    rings = []
    for _ in range(2):
        order = data.draw(st.permutations(keys))
        times = sorted(data.draw(st.lists(st.floats(1, 100), min_size=len(keys), max_size=len(keys))))
        arrived = [(ticket_key(number), at) for number, at in zip(order, times, strict=True)]
        rings.append(settle(received(arrived, schedule, initial()), 200.0, schedule))

    assert fleet(rings[0]) == fleet(rings[1])
    assert rings[0][0].order[1] == max(keys)


@given(st.lists(numbers, min_size=1, max_size=4), st.data(), schedules)
def test_every_order_in_every_epoch_ends_with_the_same_ring(
    epochs: list[list[int]], data: st.DataObject, schedule: Schedule
) -> None:
    """Consul's data is lost again and again; within an epoch each node hears the events in its own order.

    The nodes count the epochs from different numbers, and what an earlier epoch had is older, however high.
    """
    rings = []
    for first in (0, 5):
        ring, now = initial(), 0.0
        for number, times in enumerate(epochs):
            for time in data.draw(st.permutations(times)):
                now += data.draw(st.floats(0, 30))
                key = ticket_key(100 * number + time, now, ltime=time, epoch=first + number)
                ring = settle(admit(ring, key), now, schedule)
        rings.append(settle(ring, now + 100, schedule))

    assert fleet(rings[0]) == fleet(rings[1])
    assert fleet(rings[0])[0] == f"tickets/{100 * (len(epochs) - 1) + max(epochs[-1])}.key"


@given(numbers, schedules)
def test_no_time_pins_its_key(keys: list[int], schedule: Schedule) -> None:
    """One agent fired with the highest time there is; its clock turned over, so that an epoch begins."""
    hostile = ticket_key(99, ltime=2**64 - 1)
    arrivals = [(ticket_key(number, epoch=1), 1.0) for number in keys]

    ring = settle(received([(hostile, 0.0), *arrivals], schedule, initial()), 200.0, schedule)

    assert fleet(ring)[0] == f"tickets/{max(keys)}.key"


def test_a_ring_from_before_epochs_were_counted_is_older_than_what_comes() -> None:
    """Whatever Lamport time its keys have: nobody knows how often Consul's data was lost since."""
    old = ticket_key(1, ltime=500).to_json()
    del old["epoch"]

    ring = settle(admit((TicketKey.from_json(old),), ticket_key(2, 0.0, ltime=3)), 100.0, SCHEDULE)

    assert fleet(ring) == ["tickets/2.key", "tickets/1.key"]


@given(numbers, st.lists(st.sampled_from([-DAY, -3600.0, 3600.0, DAY]), max_size=4), st.data())
def test_steps_of_the_clock_put_nothing_off(keys: list[int], jumps: list[float], data: st.DataObject) -> None:
    """However the clock jumped between two starts: from the last one, each step comes within its own wait."""
    ring, now = initial(), 10 * DAY
    for number in keys:
        now += data.draw(st.floats(0, 30))
        ring = settle(admit(ring, ticket_key(number, now)), now, SCHEDULE)
    for jump in jumps:
        now += jump
        ring = settle(ring, now, SCHEDULE)

    promoted = settle(ring, now + SCHEDULE.promote_after, SCHEDULE)
    retired = settle(promoted, now + SCHEDULE.promote_after + SCHEDULE.retire_after, SCHEDULE)

    assert fleet(promoted)[0] == f"tickets/{max(keys)}.key"
    assert fleet(retired) == [f"tickets/{max(keys)}.key"]


@given(numbers, st.data())
def test_the_same_key_in_two_events_converges(keys: list[int], data: st.DataObject) -> None:
    """A key that two events brought has one place in the ring, whichever came first."""
    schedule = replace(SCHEDULE, keep=50)
    events = [ticket_key(number, ltime=ltime) for number in keys for ltime in (number, 41 + number)]
    rings = [
        settle(
            received([(key, 1.0) for key in data.draw(st.permutations(events))], schedule), 100.0, schedule
        )
        for _ in range(2)
    ]

    assert fleet(rings[0]) == fleet(rings[1])


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 2000)), max_size=40), schedules)
def test_the_ring_is_bounded_and_always_encrypts(steps: list[tuple[int, float]], schedule: Schedule) -> None:
    """At any time the ring holds a promoted key, first, and at most `keep` demoted ones."""
    ring, now = initial(), 0.0
    for number, wait in steps:
        now += wait
        ring = settle(admit(ring, ticket_key(number, now)), now, schedule)

        assert ring[0].promoted is not None
        assert ring[0].demoted is None
        assert sum(key.demoted is not None for key in ring) <= schedule.keep
        assert len(ring) <= schedule.keep + 2


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 2000)), max_size=40), schedules)
def test_an_older_key_never_takes_over(steps: list[tuple[int, float]], schedule: Schedule) -> None:
    """The order of the key that encrypts only grows, as long as no key comes twice."""
    ring, now = initial(), 0.0
    for number, wait in dict(steps).items():
        now += wait
        before = ring[0].order
        ring = settle(admit(ring, ticket_key(number, now)), now, schedule)

        assert ring[0].order >= before


@given(numbers, st.floats(0, DAY), schedules)
def test_settling_twice_changes_nothing(keys: list[int], now: float, schedule: Schedule) -> None:
    """What is due is done at once, and the next step lies in the future."""
    ring = settle(
        received([(ticket_key(number), 0.0) for number in keys], schedule, initial()), now, schedule
    )

    assert settle(ring, now, schedule) == ring
    step = next_step(ring, schedule)
    assert step is None or step > now


@given(numbers, schedules)
def test_steps_end_with_one_key(keys: list[int], schedule: Schedule) -> None:
    """Following the steps, in the end only the newest key is left and nothing more is due."""
    ring = received([(ticket_key(number), 0.0) for number in keys], schedule, initial())
    for _ in range(100):
        step = next_step(ring, schedule)
        if step is None:
            break
        ring = settle(ring, step, schedule)

    assert fleet(ring) == [f"tickets/{max(keys)}.key"]
    assert len(ring) == 1


def test_same_name_with_another_secret() -> None:
    """A ticket finds its key by name, so two keys of one name cannot be in the ring."""
    ring = admit((), ticket_key(1))

    with pytest.raises(ValueError, match="same name"):
        admit(ring, replace(ticket_key(1), path="tickets/other.key"))


def test_firing_an_old_key_again_does_not_bring_it_back() -> None:
    """A key that a later event brings once more keeps its place behind the keys that came in between."""
    ring = received([(ticket_key(1), 0.0), (ticket_key(2), 1.0), (ticket_key(1, ltime=3), 2.0)], SCHEDULE)

    ring = settle(ring, 100.0, SCHEDULE)

    assert fleet(ring) == ["tickets/2.key", "tickets/1.key"]


def test_longer_promote_after_does_not_undo_a_promotion() -> None:
    """A promoted key keeps encrypting when the operator makes `promote_after` longer."""
    ring = settle(received([(ticket_key(1), 0.0)], SCHEDULE, initial()), 60.0, SCHEDULE)

    ring = settle(ring, 61.0, replace(SCHEDULE, promote_after=DAY))

    assert ring[0].path == "tickets/1.key"


def test_clock_set_back() -> None:
    """A key received while the clock was a day ahead is promoted `promote_after` from now, not tomorrow."""
    ring = received([(ticket_key(1), DAY)], SCHEDULE, initial())

    ring = settle(ring, 100.0, SCHEDULE)

    assert next_step(ring, SCHEDULE) == 160.0


def test_empty_ring() -> None:
    """Nothing is due in an empty ring."""
    assert settle((), 0.0, SCHEDULE) == ()
    assert next_step((), SCHEDULE) is None


def test_json_round_trip() -> None:
    """A key comes back from the store as it went in."""
    key = replace(ticket_key(3, 1.5), promoted=2.5)

    assert TicketKey.from_json(key.to_json()) == key

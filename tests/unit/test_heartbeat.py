"""A thread that breaks its promise is found; one that keeps it, or has ended, is not."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from agentd.heartbeat import FIRST_BEAT, Heartbeats


class Clock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


def test_a_thread_is_fresh_until_its_promise_is_over() -> None:
    """At the last moment of the promise the thread is fresh, after it stale."""
    clock = Clock()
    heartbeats = Heartbeats(clock)
    heartbeats.register("poll event").beat(5.0)

    clock.now += 5.0
    assert heartbeats.stale() == []
    clock.now += 0.001
    assert heartbeats.stale() == ["poll event"]


def test_a_thread_that_never_beats_becomes_stale() -> None:
    """A thread that died before its first beat is found too."""
    clock = Clock()
    heartbeats = Heartbeats(clock)
    heartbeats.register("handler tls")

    assert heartbeats.stale(clock.now + FIRST_BEAT) == []
    assert heartbeats.stale(clock.now + FIRST_BEAT + 1) == ["handler tls"]


def test_a_shorter_promise_replaces_a_longer_one() -> None:
    """What the thread said last counts."""
    clock = Clock()
    heartbeats = Heartbeats(clock)
    heartbeat = heartbeats.register("poll event")
    heartbeat.beat(100.0)

    heartbeat.beat(1.0)

    assert heartbeats.stale(clock.now + 2.0) == ["poll event"]


def test_a_forgotten_thread_is_never_stale() -> None:
    """A thread that ended as it should is not missed, and forgetting it twice is no error."""
    heartbeats = Heartbeats(Clock())
    heartbeats.register("poll event")

    heartbeats.forget("poll event")
    heartbeats.forget("poll event")

    assert heartbeats.stale(1e9) == []


def test_the_predecessor_of_a_name_does_not_beat_for_its_successor() -> None:
    """After a reload an abandoned poller of the same query cannot hide that the new one is stuck."""
    clock = Clock()
    heartbeats = Heartbeats(clock)
    abandoned = heartbeats.register("poll event")
    heartbeats.register("poll event").beat(1.0)

    abandoned.beat(1000.0)

    assert heartbeats.stale(clock.now + 2.0) == ["poll event"]


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 100), max_size=8), st.floats(0, 200))
def test_exactly_the_late_ones_are_named_in_order(promises: dict[str, float], later: float) -> None:
    """`stale` names all that are late, sorted, and no other."""
    clock = Clock()
    heartbeats = Heartbeats(clock)
    for name, good_for in promises.items():
        heartbeats.register(name).beat(good_for)

    moment = clock.now + later

    assert heartbeats.stale(moment) == sorted(n for n, good in promises.items() if moment > clock.now + good)


def test_threads_may_come_and_go_while_others_look() -> None:
    """Registering and forgetting from many threads does not disturb `stale`."""
    heartbeats = Heartbeats()

    def come_and_go(name: str) -> None:
        for turn in range(200):
            heartbeats.register(f"{name}-{turn}").beat(10.0)
            heartbeats.stale()
            heartbeats.forget(f"{name}-{turn}")

    threads = [threading.Thread(target=come_and_go, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert heartbeats.stale(1e12) == []

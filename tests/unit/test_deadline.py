"""Time and bandwidth of one fetch."""

from __future__ import annotations

import threading

import pytest

from agentd.deadline import Deadline
from agentd.errors import TemporaryError
from agentd.testing.staging import RecordedLog


class Clock(threading.Event):
    """A clock that only a wait on it moves on; as a stop event it is never set."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass at once."""
        self.now += timeout or 0.0
        return self.is_set()


def test_the_time_ends(log: RecordedLog) -> None:
    """`left` counts down and then says what took too long."""
    clock = Clock()
    deadline = Deadline("kv:a", 10.0, log=log, stop=clock, clock=clock)
    clock.now += 4.0
    assert deadline.left() == pytest.approx(6.0)
    clock.now += 6.0
    with pytest.raises(TemporaryError, match="kv:a: not fetched within 10 s"):
        deadline.left()


def test_a_stop_ends_it(log: RecordedLog) -> None:
    """A daemon that wants to stop does not wait for a transfer."""
    stop = threading.Event()
    deadline = Deadline("kv:a", 10.0, log=log, stop=stop)
    stop.set()
    with pytest.raises(TemporaryError, match="agentd is stopping"):
        deadline.pause(5.0)


def test_a_pause_does_not_outlast_the_time(log: RecordedLog) -> None:
    """It ends with the time, and says so."""
    clock = Clock()
    deadline = Deadline("kv:a", 10.0, log=log, stop=clock, clock=clock)
    with pytest.raises(TemporaryError):
        deadline.pause(3600.0)
    assert clock.now == pytest.approx(110.0)


def test_the_rate_is_kept_on_average(log: RecordedLog) -> None:
    """A million bytes at 100,000 a second take ten seconds."""
    clock = Clock()
    deadline = Deadline("kv:a", 60.0, log=log, stop=clock, rate=100_000.0, clock=clock)
    for _ in range(40):
        deadline.received(25_000, None)
    assert clock.now - 100.0 == pytest.approx(10.0)


def test_a_slow_rate_means_small_steps(log: RecordedLog) -> None:
    """No read waits for many seconds' worth of bytes."""
    assert Deadline("a", 1.0, log=log, rate=8_000.0).chunk(1 << 18) == 2_000
    assert Deadline("a", 1.0, log=log).chunk(1 << 18) == 1 << 18


def test_a_long_transfer_is_told_now_and_then(log: RecordedLog) -> None:
    """One line every five seconds, however many chunks come."""
    clock = Clock()
    deadline = Deadline("kv:a", 60.0, log=log, stop=clock, rate=1_000.0, clock=clock)
    for _ in range(120):
        deadline.received(100, 12_000)
    told = [line.fields["received"] for line in log.lines]
    assert len(told) == 2
    assert told[0] == pytest.approx(5_000, abs=200)


def test_many_small_pieces_are_slowed_down(log: RecordedLog) -> None:
    """A server that sends byte by byte, as fast as it can, does not keep the interpreter busy."""
    clock = Clock()
    deadline = Deadline("x", 60.0, log=log, stop=clock, clock=clock)
    for _ in range(1024):
        deadline.received(16, None)
    after_small = clock.now
    for _ in range(1024):
        deadline.received(65536, None)
    assert after_small == pytest.approx(100.04)
    assert clock.now == after_small

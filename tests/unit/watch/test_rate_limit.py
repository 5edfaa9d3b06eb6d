"""The floor under the polling rate."""

from __future__ import annotations

from agentd.watch.rate_limit import RateLimit


def test_an_agent_that_always_answers_at_once_is_asked_ten_times_a_second() -> None:
    """After the burst, whatever the agent does."""
    now = 0.0
    limit = RateLimit(lambda: now, floor=0.1, burst=5)
    for _ in range(105):
        now += limit.spend(took=0.0)
    assert 9.9 <= now <= 10.1


def test_a_burst_is_not_slowed() -> None:
    """As many events as the ring holds are delivered as they come."""
    limit = RateLimit(lambda: 0.0, floor=0.1, burst=5)
    assert [limit.spend(took=0.01) for _ in range(6)] == [0, 0, 0, 0, 0, 0.1]


def test_a_quiet_period_earns_the_next_burst() -> None:
    """But no more than one."""
    now = 0.0
    limit = RateLimit(lambda: now, floor=0.1, burst=2)
    for _ in range(2):
        limit.spend(took=0.0)
    now = 1000.0
    assert [limit.spend(took=0.0) > 0 for _ in range(3)] == [False, False, True]


def test_answers_that_took_their_time_are_free() -> None:
    """They are no busy loop."""
    limit = RateLimit(lambda: 0.0, floor=0.1, burst=0)
    assert limit.spend(took=0.1) == 0.0

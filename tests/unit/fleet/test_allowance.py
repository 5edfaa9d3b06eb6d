"""A few times in a row, and then at a limited rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.fleet.allowance import Allowance


def test_a_few_times_in_a_row_and_then_at_the_rate() -> None:
    """After a quiet period the row is allowed again."""
    one = Allowance(3)
    assert [one.use(100.0, 1.0, 0.1) for _ in range(4)] == [0.1, 0.1, 1.0, 2.0]
    assert one.use(200.0, 1.0, 0.1) == 0.1


@given(pauses=st.lists(st.floats(0, 5), max_size=50), every=st.floats(0.1, 4), share=st.floats(0, 1))
def test_in_the_long_run_it_is_not_more_often(pauses: list[float], every: float, share: float) -> None:
    """Whoever waits as told, and longer, stays below the rate, but for the row at the beginning."""
    one, now = Allowance(3), 10.0
    begun = now
    for done, pause in enumerate(pauses, 1):
        wait = one.use(now, every, every * share)
        assert wait >= every * share
        assert done <= 3 + (now - begun) / every + 1e-6
        now += wait + pause

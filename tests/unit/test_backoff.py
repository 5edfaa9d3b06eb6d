"""Waits between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.backoff import Backoff


@given(st.floats(0.01, 10), st.floats(10, 1000), st.integers(-5, 10**9))
def test_waits_double_within_bounds(first: float, longest: float, attempt: int) -> None:
    """Each is twice the one before, with up to a quarter of the first on top, and never above the longest."""
    doubled = min(first * 2 ** (min(max(attempt, 1), 64) - 1), longest)

    wait = Backoff(first, longest).delay(attempt)

    assert doubled <= wait <= min(doubled + first / 4, longest)


def test_waits_differ_between_nodes() -> None:
    """A fleet does not come back in one instant."""
    backoff = Backoff(1, 60)

    assert len({backoff.delay(3) for _ in range(20)}) > 1

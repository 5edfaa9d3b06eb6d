"""`--since`: a point in time as people type it."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.since import since

NOW = datetime(2026, 11, 27, 11, 30).timestamp()  # noqa: DTZ001 (local time, as typed)


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.mark.parametrize(
    "text, ago",
    [
        ("now", timedelta(0)),
        ("2h", timedelta(hours=2)),
        ("-2h", timedelta(hours=2)),
        ("1h30m ago", timedelta(hours=1, minutes=30)),
        ("3d", timedelta(days=3)),
        ("today", timedelta(hours=11, minutes=30)),
        ("yesterday", timedelta(days=1, hours=11, minutes=30)),
        ("10:15", timedelta(hours=1, minutes=15)),
        ("9:30:30", timedelta(hours=1, minutes=59, seconds=30)),
        ("2026-11-27", timedelta(hours=11, minutes=30)),
        ("2026-11-26 11:30", timedelta(days=1)),
        ("2026-11-26t11:30:00", timedelta(days=1)),
        (f"@{NOW - 60:.0f}", timedelta(minutes=1)),
    ],
)
def test_what_people_type(text: str, ago: timedelta) -> None:
    """As journalctl takes it, and as agentd's own durations."""
    assert since(text) == NOW - ago.total_seconds()


def test_a_time_zone_counts() -> None:
    """Of a time copied from a log."""
    assert since("2026-01-01T00:00:00Z") == 1767225600.0
    assert since("2026-01-01T01:00:00+01:00") == 1767225600.0


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "2026", "2026-13-01", "-", "@x", "0001-01-01", "5 apples"]
)
def test_what_is_no_time_says_what_is(text: str) -> None:
    """With an example of each."""
    with pytest.raises(argparse.ArgumentTypeError, match="2h or 1h30m, today"):
        since(text)


@pytest.mark.parametrize("text", ["23:00", "2026-12-01", "9999-12-31"])
def test_the_future_is_refused(text: str) -> None:
    """Nothing could be found, and it would look as if nothing had happened."""
    with pytest.raises(argparse.ArgumentTypeError, match="lies ahead"):
        since(text)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    """Never a traceback."""
    with suppress(argparse.ArgumentTypeError):
        assert since(text) <= NOW + 1

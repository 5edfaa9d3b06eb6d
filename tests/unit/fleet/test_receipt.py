"""A message as its handlers receive it: since when a time to live counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.fleet.envelope import Draft
from agentd.fleet.receipt import MOST_AHEAD, event_of

_NOW = 1_790_000_000.0
_TIMES = st.floats(0, 9e10)


@given(issued=_TIMES, lasts=st.none() | st.floats(0, 1e9), live=st.booleans())
def test_no_clock_makes_an_entry_last_for_ever(issued: float, lasts: float | None, live: bool) -> None:  # noqa: FBT001 (Hypothesis passes by name)
    """A message from the year 4000 counts from an hour ahead; one that is followed, from now at least."""
    expires = None if lasts is None else issued + lasts
    message = Draft(b"", issued, "ops@host", expires=expires).numbered("edge", "list", 7, 0)

    said = event_of(message, b"", _NOW, live=live).message

    assert said
    assert (_NOW if live else min(issued, _NOW)) <= said.counts_from <= _NOW + MOST_AHEAD
    assert (said.expires is None) is (lasts is None)
    assert said.expires is None or said.expires - said.counts_from <= (lasts or 0) + 1


@given(ahead=st.floats(-1e6, 1e6), late=st.floats(0, 1e6))
def test_what_was_written_late_counts_from_when_it_was_heard_whatever_the_relay_s_clock(
    ahead: float, late: float
) -> None:
    """By the clock of whoever follows, unless that of the relay is ahead."""
    draft = Draft(b"", _NOW - late + ahead, "lb1", via="event")
    message = draft.numbered("edge", "list", 7, 0, late)

    said = event_of(message, b"", _NOW, live=True).message

    assert said
    assert _NOW - late - 1 <= said.counts_from <= max(_NOW - late, min(message.issued, _NOW + MOST_AHEAD)) + 1

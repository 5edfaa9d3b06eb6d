"""What stands below `names/`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import BadDocument, FleetError, UnknownFormat
from agentd.fleet.head import LARGEST_HEAD, LARGEST_INLINE, FleetRecord, Head, parse_head, parse_record
from agentd.fleet.keys import POISONED

GOOD = {"format": 1, "keep": "all", "newest": 9, "oldest": 3, "count": 4, "recent": [2, 1, 3]}


@st.composite
def heads(draw: st.DrawFn) -> Head:
    """A head as a writer makes it."""
    numbers = sorted(draw(st.sets(st.integers(1, POISONED - 1), max_size=60)))
    hidden = draw(st.integers(0, 5000)) if numbers else 0
    newest = numbers[-1] if numbers else draw(st.integers(0, POISONED // 2))
    return Head(
        keep=draw(st.sampled_from(["latest", "all"])),
        newest=newest,
        oldest=draw(st.integers(1, numbers[0])) if numbers else 0,
        count=len(numbers) + hidden,
        floor=draw(st.integers(0, newest)),
        base=draw(st.integers(0, newest)),
        snapshot=draw(st.integers(0, newest)),
        cut=draw(st.integers(0, newest)),
        mended=draw(st.integers(0, POISONED - 1)),
        released=draw(st.none() | st.integers(0, newest)),
        recent=tuple(numbers),
        inline=draw(st.none() | st.text(st.characters(max_codepoint=126), min_size=1).map(str.encode)),
    )


def changed(**fields: Any) -> bytes:  # noqa: ANN401 (any JSON)
    """A good head with other fields."""
    return json.dumps(GOOD | fields).encode()


@given(head=heads())
def test_what_was_written_is_read(head: Head) -> None:
    """No field is lost on the way."""
    assert parse_head(head.render()) == head


@given(head=heads(), inline=st.binary(min_size=1).map(lambda data: data.hex().encode() * 50))
def test_a_head_is_never_too_large(head: Head, inline: bytes) -> None:
    """All nodes read it whenever any head changes."""
    large = Head(head.keep, head.newest, head.oldest, head.count, recent=head.recent, inline=inline)
    assert len(large.render()) <= LARGEST_HEAD


def test_a_message_that_does_not_fit_is_left_out() -> None:
    """By its own size, or by what quoting makes of it."""
    for inline in (b"x" * (LARGEST_INLINE + 1), b"\\" * LARGEST_INLINE):
        head = Head("all", 9, 9, 1, recent=(9,), inline=inline)
        assert parse_head(head.render()).inline is None


def test_recent_numbers_fill_a_gap() -> None:
    """One transaction then fetches what is missing."""
    head = parse_head(changed(count=9, oldest=2))
    assert head.recent == (3, 6, 7, 9)
    assert head.above(6) == (7, 9)
    assert head.above(2) == (3, 6, 7, 9)
    assert head.above(9) == head.above(12) == ()
    assert head.above(1) is None


def test_recent_numbers_may_be_all_there_are() -> None:
    """Then even the first gap is filled by them."""
    assert parse_head(changed()).above(0) == (3, 6, 7, 9)
    assert Head("latest").above(0) == ()


def test_only_a_head_with_an_open_rollout_has_another_format() -> None:
    """Agentd that knows no rollouts follows the log until one is open, and waits then."""
    assert json.loads(Head("latest", 9, 9, 1).render())["format"] == 1
    assert json.loads(Head("latest", 9, 9, 1, released=0).render()) == {
        "format": 2, "keep": "latest", "newest": 9, "oldest": 9, "count": 1, "released": 0,
    }  # fmt: skip


@pytest.mark.parametrize("fields", [{"released": 3}, {"format": 2}, {"format": 2, "released": 10}])
def test_a_head_that_contradicts_itself_about_a_rollout_is_refused(fields: dict[str, Any]) -> None:
    """As any other that nobody writes."""
    with pytest.raises(BadDocument):
        parse_head(changed(**fields))


def test_a_newer_head_is_not_understood() -> None:
    """Its messages wait."""
    with pytest.raises(UnknownFormat):
        parse_head(b'{"format":3}')


@pytest.mark.parametrize(
    "fields",
    [
        {"keep": "some"}, {"keep": []}, {"newest": POISONED}, {"newest": 10**30}, {"newest": -1},
        {"newest": True},
        {"newest": 2}, {"oldest": 10}, {"oldest": 0}, {"count": 0}, {"count": -1}, {"count": 10**9},
        {"count": 2},
        {"recent": [0]}, {"recent": [-1]}, {"recent": [1] * 60}, {"recent": [9]}, {"recent": "1"},
        {"recent": {}},
        {"recent": [7]}, {"floor": POISONED}, {"base": 10}, {"snapshot": -1}, {"cut": "x"},
        {"mended": POISONED}, {"inline": 7},
        {"inline": "x" * 2049},
        {"inline": "é"}, {"newest": POISONED - 1, "oldest": 0, "count": 0, "recent": []},
    ],
)  # fmt: skip
def test_a_head_that_agentd_never_writes_is_told(fields: dict[str, Any]) -> None:
    """Each field is checked, and that they fit together."""
    with pytest.raises(BadDocument):
        parse_head(changed(**fields))


@given(raw=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """Whoever reads a head catches one kind of error."""
    for parse in (parse_head, parse_record):
        try:
            parse(raw)
        except FleetError:
            continue


def test_a_head_that_is_too_large_is_not_parsed() -> None:
    """Whatever it holds."""
    with pytest.raises(BadDocument, match="4096"):
        parse_head(changed(x="y" * LARGEST_HEAD))


@pytest.mark.parametrize("record", [FleetRecord(), FleetRecord(2)])
def test_the_fleets_record_is_read_as_written(record: FleetRecord) -> None:
    """It is there even if nothing is to be said."""
    assert parse_record(record.render()) == record


@pytest.mark.parametrize("fields", [{"floor_format": -1}, {"floor_format": "2"}])
def test_a_record_that_agentd_never_writes_is_told(fields: dict[str, Any]) -> None:
    """Each field is checked."""
    with pytest.raises(BadDocument):
        parse_record(json.dumps({"format": 1} | fields).encode())

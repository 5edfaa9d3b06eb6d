"""What servers say about payloads, and what of that is believed."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import Known
from agentd.http import Headers
from agentd.sources import validators
from agentd.sources.validators import LONGEST_WAIT, retry_after

INPUTS = Path(__file__).parents[2] / "inputs"
NOW = 1_700_000_000.0
PAST = formatdate(NOW - 3600, usegmt=True)
YEAR = "Thu, 01 Jan 99999999999 00:00:00 GMT"


def known(**headers: str) -> Known:
    """What is believed of these headers."""
    return validators.known(Headers({name.replace("_", "-"): text for name, text in headers.items()}), NOW)


@pytest.mark.parametrize("etag", ['"abc"', 'W/"abc"', '""'])
def test_an_etag_is_kept_as_it_is(etag: str) -> None:
    """RFC 9110, 8.8.3."""
    assert known(ETag=etag, Last_Modified=PAST) == Known(etag, PAST)


@pytest.mark.parametrize("etag", ["abc", '"a b"', '"a", "b"', '"\x7f"', f'"{"a" * 300}"', '"a', "*", 'w/"a"'])
def test_an_etag_that_is_none_is_ignored(etag: str) -> None:
    """Malformed, too long, or several at once."""
    assert known(ETag=etag) == Known()


@pytest.mark.parametrize(
    "modified",
    [
        YEAR,
        "-5",
        "0",
        "never",
        "Thu, 32 Jan 2020 00:00:00 GMT",
        "Thu, 01 Jan 1970 00:00:00 " + "G" * 100,
        formatdate(NOW + 3600, usegmt=True),
        f"{PAST}, {PAST}{PAST}",
    ],
)
def test_a_date_that_makes_no_sense_is_ignored(modified: str) -> None:
    """So that it neither raises nor is sent back to the server."""
    assert known(Last_Modified=modified) == Known()


def test_a_date_of_the_very_second_is_ignored() -> None:
    """The payload may have changed again within it (RFC 9110, 8.8.2.2)."""
    assert known(Last_Modified=PAST, Date=PAST) == Known()
    assert known(Last_Modified=PAST, Date=formatdate(NOW - 3599, usegmt=True)) == Known("", PAST)


def test_the_header_in_the_year_99999999999_is_ignored() -> None:
    """As it was seen in the wild; the fetch itself goes on."""
    headers = Headers({"Last-Modified": (INPUTS / "last-modified.txt").read_text().strip()})

    assert validators.known(headers, NOW).last_modified == ""
    assert validators.for_ranges(headers) == ""


@given(
    st.dictionaries(st.sampled_from(["ETag", "Last-Modified", "Date", "Accept-Ranges"]), st.text(max_size=80))
)
def test_no_header_raises(headers: dict[str, str]) -> None:
    """Whatever a server writes there."""
    validators.known(headers)
    validators.for_ranges(headers)


@pytest.mark.parametrize(
    "text, seconds",
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("999999999", LONGEST_WAIT),
        ("9" * 5000, LONGEST_WAIT),
        (YEAR, None),
        ("nan", None),
        ("1e9", None),
        ("+5", None),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        (formatdate(1_700_000_030, usegmt=True), 30.0),
        (formatdate(1_600_000_000, usegmt=True), 0.0),
        (formatdate(1_800_000_000, usegmt=True), LONGEST_WAIT),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    """RFC 9110, 10.2.3; bounded, for a server is not to put us off for ever."""
    assert retry_after(text, now=1_700_000_000.0) == seconds


@given(st.text(max_size=40))
def test_retry_after_is_never_out_of_bounds(text: str) -> None:
    """Whatever a server writes there."""
    found = retry_after(text)
    assert found is None or 0 <= found <= LONGEST_WAIT


def test_a_date_counts_from_now() -> None:
    """By the clock of this machine."""
    found = retry_after(formatdate(time.time() + 600, usegmt=True))
    assert found is not None
    assert 500 < found <= 600  # a busy machine may take its time in between

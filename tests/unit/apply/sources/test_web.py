"""What statuses, headers and broken connections mean."""

from __future__ import annotations

import socket
import ssl
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import NewConnectionError, ProtocolError, ReadTimeoutError

from agentd.apply.sources.web import LONGEST_WAIT, Answer, explain, refusal, retry_after
from agentd.errors import TemporaryError


@pytest.mark.parametrize(
    "text, seconds",
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("999999999", LONGEST_WAIT),
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
    assert retry_after(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)


def test_a_status_that_nobody_knows_is_told_all_the_same() -> None:
    """And 599 is a 5xx."""
    error = refusal("https://h/a", Answer(599, HTTPHeaderDict(), HTTPResponse()))
    assert isinstance(error, TemporaryError)
    assert "599 (an unknown status)" in str(error)


@pytest.mark.parametrize(
    "error, words",
    [
        (ConnectionRefusedError(111, "x"), "nothing listens"),
        (socket.gaierror(-2, "x"), "cannot be resolved"),
        (TimeoutError("x"), "no answer in time"),
        (ReadTimeoutError(None, "SECRET", "x"), "no answer in time"),  # type: ignore[arg-type] # no pool here
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] SECRET"), "TLS failed"),
        (ssl.SSLCertVerificationError(1, "SECRET"), "sources.ca_file"),
        (ProtocolError("SECRET"), r"connection broke \(ProtocolError\)"),
    ],
)
def test_a_breakage_is_explained(error: Exception, words: str) -> None:
    """In words that help the operator, and none of the library's, which may quote a URL."""
    told = explain("https://h/a", error)
    assert isinstance(told, TemporaryError)
    with pytest.raises(TemporaryError, match=words):
        raise told
    assert "SECRET" not in str(told)


def test_the_cause_counts() -> None:
    """urllib3 wraps what happened."""
    wrapped = NewConnectionError(None, "SECRET")  # type: ignore[arg-type] # no connection here
    wrapped.__cause__ = ConnectionRefusedError(111, "x")
    assert "nothing listens" in str(explain("https://h/a", wrapped))

"""What a server says so that it can be asked again later: dates, ETags, and how long to wait.

Its word is used only if it makes sense: what is malformed, too long, or lies in the future was not said.
RFC 9110 is the source: 5.6.7 (dates), 8.8 (validators), 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from agentd.handler import Known

LONGEST_WAIT: Final = 3600.0
"""Seconds that a server's Retry-After may ask for."""

_LONGEST_DATE: Final = 64
_ETAG: Final = re.compile(r'(?:W/)?"[!#-~\x80-\xff]{0,256}"')
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_MANY_SECONDS: Final = re.compile(r"[0-9]{10,}")
_STRONG_AGE: Final = 1.0
"""Seconds by which a Last-Modified must precede its answer to tell two versions apart (RFC 9110, 8.8.2.2)."""


def known(headers: Mapping[str, str], now: float | None = None) -> Known:
    """The validators of an answer, "" for those that are not there or make no sense.

    Args:
        headers: of the answer.
        now: unix seconds.
    """
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    latest = time.time() if now is None else now
    answered = date(headers.get("Date", ""))
    if answered is not None:
        latest = min(latest, answered - _STRONG_AGE)
    at = date(modified)
    return Known(etag if _ETAG.fullmatch(etag) else "", modified if at is not None and at <= latest else "")


def for_ranges(headers: Mapping[str, str]) -> str:
    """What If-Range may carry: a strong ETag, or a date that is old enough; "" for neither."""
    if headers.get("Accept-Ranges") == "none":
        return ""
    found = known(headers)
    if headers.get("ETag"):
        return "" if found.etag.startswith("W/") else found.etag
    return found.last_modified if date(headers.get("Date", "")) is not None else ""


def retry_after(text: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, at most `LONGEST_WAIT`; None if it says nothing usable."""
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), LONGEST_WAIT)
    if _MANY_SECONDS.fullmatch(text):
        return LONGEST_WAIT
    at = date(text)
    if at is None:
        return None
    return min(max(at - (time.time() if now is None else now), 0.0), LONGEST_WAIT)


def date(text: str) -> float | None:
    """The unix time of an HTTP date; None if it is none."""
    if len(text) > _LONGEST_DATE:
        return None
    try:
        found = parsedate_to_datetime(text).timestamp()
    except Exception:  # noqa: BLE001 (ValueError, OverflowError, TypeError, IndexError ...: it is no date)
        return None
    return found if math.isfinite(found) else None

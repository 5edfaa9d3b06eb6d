"""Times and durations as a person reads them."""

from __future__ import annotations

import time


def moment(unix: float | None) -> str:
    """A unix time as local time, or "-"."""
    return "-" if unix is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))


def universal(unix: float | None) -> str:
    """A unix time in UTC, as all nodes read it alike, or "-"."""
    return "-" if unix is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix))


def timestamp(unix: float) -> str:
    """A unix time in UTC as RFC 3339 writes it: "2026-11-27T14:30:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def span(seconds: float | None) -> str:
    """A duration as a person reads it: "12 ms", "3.4 s", "5 m 10 s", "2 h 3 m", "4 d 1 h", or "-"."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s"

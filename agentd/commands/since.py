"""A point in time as a person types it after `--since`: as journalctl takes it, or a duration."""

from __future__ import annotations

import argparse
import re
import time
from datetime import datetime, timedelta
from typing import Final

from agentd.values import parse_duration

_ADVICE: Final = (
    "it must be a time ago such as 2h or 1h30m, today, yesterday, a time such as 14:30, or a date such as"
    ' 2026-11-27, "2026-11-27 14:30" or 2026-11-27T14:30:00Z'
)
_CLOCK: Final = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
_SLACK: Final = 1.0  # seconds


def since(text: str) -> float:
    """The unix time that is meant; without a time zone it is local time. A usage error if it lies ahead."""
    now = time.time()
    try:
        found = _unix(text.strip().lower(), datetime.fromtimestamp(now))  # noqa: DTZ006 (local time is meant)
    except (ValueError, OverflowError, OSError) as error:
        raise argparse.ArgumentTypeError(_ADVICE) from error
    if found > now + _SLACK:
        raise argparse.ArgumentTypeError("it lies ahead: give a time that has passed")
    return found


def _unix(text: str, now: datetime) -> float:
    if text.startswith("@"):
        return float(int(text[1:]))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in days:
        return days[text].timestamp()
    if _CLOCK.fullmatch(text):
        time_of_day = datetime.strptime(text, "%H:%M:%S" if text.count(":") > 1 else "%H:%M")  # noqa: DTZ007
        return datetime.combine(midnight, time_of_day.time()).timestamp()
    ago = text.removeprefix("-").removesuffix("ago").strip()
    if not ago.isdigit():  # "20261127" is a day
        try:
            return now.timestamp() - parse_duration(ago)
        except ValueError:
            pass
    return datetime.fromisoformat(text.upper()).timestamp()

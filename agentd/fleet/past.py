"""The latest states of one handler, as a document carries them, and how two nodes compare by them.

A state is how far the handler was in the log and what it had come to, from one moment on. Numbers move on
while somebody looks, and no two documents need be of one moment; so it takes what nodes had come to a while
ago to tell whether they come to the same. Pure. Times are of the nodes' own clocks, as are their timers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from agentd.accounts import State

_DIGITS: Final = 6
_RESTS: Final = 1.0  # seconds within which timed work, such as the end of an entry, falls together
_NONE: Final = "-"  # the fingerprint of what is not to be compared
_STATE: Final = re.compile(r"([0-9a-f]{1,16})/([0-9a-f]{1,16}|-)/(-?[0-9]{1,11})")


@dataclass(frozen=True, slots=True)
class Compared:
    """What two pasts say of each other.

    Attributes:
        agreed: whether both came to the same state at any time.
        differing: seconds in all for which both were equally far, rested there, and were not at the same,
            since the last moment at which one came to a state, or left one, that the other one had as well.
        ours, theirs: what they had come to the last time that they differed so; "" if they did not.
    """

    agreed: bool
    differing: float
    ours: str = ""
    theirs: str = ""


@dataclass(frozen=True, slots=True)
class _Stay:
    """A state, and until when it lasted; from `rests` on it was not about to become another by timed work."""

    place: str
    fingerprint: str
    start: float
    end: float
    rests: float


def encode(states: Iterable[State]) -> str:
    """As a document has them, the current one last: `PLACE/FINGERPRINT/SECONDS` each.

    The seconds are those since the state before began, and of the first one the unix time. Fingerprints are
    shortened to a digest.
    """
    made, before = [], 0
    for one in states:
        made.append(f"{one.place}/{_digest(one.fingerprint)}/{int(one.since) - before}")
        before = int(one.since)
    return " ".join(made)


def latest(past: str) -> tuple[str, str] | None:
    """Place and fingerprint of the current state; None if that is not to be compared."""
    found = _STATE.fullmatch(past.rpartition(" ")[2])
    return (found[1], found[2]) if found and found[2] != _NONE else None


def undated(past: str) -> str:
    """Only the current state, from the beginning of time: what a clock says that is ahead is of no use."""
    found = latest(past)
    return f"{found[0]}/{found[1]}/0" if found else ""


def compare(ours: str, until: float, theirs: str, theirs_until: float) -> Compared:
    """Compare two pasts, each with the unix time until when its current state is known to have lasted."""
    here, there = _stays(ours, until), _stays(theirs, theirs_until)
    last = {(one.place, one.fingerprint): one for one in there}
    agreed = -math.inf
    for one in here:
        if same := last.get((one.place, one.fingerprint)):
            meeting = max(one.start, same.start), min(one.end, same.end)
            agreed = max(agreed, *meeting)
    places: dict[str, list[_Stay]] = defaultdict(list)
    for each in there:
        places[each.place].append(each)
    differing, found = 0.0, ("", "")
    for one in here:
        for other in places.get(one.place, ()):
            together = min(one.end, other.end) - max(one.rests, other.rests, agreed)
            if together > 0 and one.fingerprint != other.fingerprint:
                differing += together
                found = one.fingerprint, other.fingerprint
    return Compared(agreed > -math.inf, differing, *found)


def _stays(past: str, until: float) -> list[_Stay]:
    """What of it can be read: whoever may write there may write anything."""
    read = [_STATE.fullmatch(one) for one in past.split(" ")]
    states = [one for one in read if one]
    since = accumulate(float(one[3]) for one in states)
    found = [(one[1], one[2], start) for one, start in zip(states, since, strict=True)]
    ends = [*(since for _, _, since in found[1:]), until]
    before = ["", *(place for place, _, _ in found)]
    return [
        _Stay(place, fingerprint, since, max(since, end), since + _RESTS * (place == last))
        for (place, fingerprint, since), end, last in zip(found, ends, before, strict=False)
        if fingerprint != _NONE
    ]


def length(past: str, until: float) -> float:
    """Seconds that it goes back."""
    found = _stays(past, until)
    return until - found[0].start if found else 0.0


def _digest(fingerprint: str | None) -> str:
    if fingerprint is None:
        return _NONE
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:_DIGITS]

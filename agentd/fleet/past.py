"""The latest states of one handler, as carried in an acknowledgement, and how to compare two nodes by them.

A state is a position in the log together with a fingerprint of the result, from one moment on. Two documents
are hardly ever of the same moment, and positions move on, so only their recent past shows whether two nodes
get the same results. Pure. Times come from the nodes' own clocks, as do their timers.
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
_RESTS: Final = 1.0  # seconds by which timed work, such as the end of an entry, may differ between nodes
_NONE: Final = "-"  # the fingerprint of a state that is not compared
_STATE: Final = re.compile(r"([0-9a-f]{1,16})/([0-9a-f]{1,16}|-)/(-?[0-9]{1,11})")


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of comparing two pasts.

    Attributes:
        agreed: whether both were ever in the same state.
        differing: the total seconds for which both rested at the same position with different fingerprints,
            since the last time that one of them entered or left a state that the other one had too.
        ours, theirs: their fingerprints when they last differed; "" if they did not.
    """

    agreed: bool
    differing: float
    ours: str = ""
    theirs: str = ""


@dataclass(frozen=True, slots=True)
class _Stay:
    """A state and how long it lasted; from `rests` on, timed work was no longer about to change it."""

    place: str
    fingerprint: str
    start: float
    end: float
    rests: float


def encode(states: Iterable[State]) -> str:
    """Encode states for a document, the current one last, each as `PLACE/FINGERPRINT/SECONDS`.

    The seconds count from the start of the state before; those of the first state are its unix time.
    Fingerprints are shortened to a digest.
    """
    made, before = [], 0
    for one in states:
        made.append(f"{one.place}/{_digest(one.fingerprint)}/{int(one.since) - before}")
        before = int(one.since)
    return " ".join(made)


def latest(past: str) -> tuple[str, str] | None:
    """The place and fingerprint of the current state; None if it is not compared."""
    found = _STATE.fullmatch(past.rpartition(" ")[2])
    return (found[1], found[2]) if found and found[2] != _NONE else None


def undated(past: str) -> str:
    """The current state alone, as if it had always lasted; for a node whose clock is wrong."""
    found = latest(past)
    return f"{found[0]}/{found[1]}/0" if found else ""


def compare(ours: str, until: float, theirs: str, theirs_until: float) -> Compared:
    """Compare two pasts; `until` is the unix time up to which the current state is known to have lasted."""
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
    """The well-formed states; anybody with write access may have written anything."""
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
    """Seconds that the past covers."""
    found = _stays(past, until)
    return until - found[0].start if found else 0.0


def _digest(fingerprint: str | None) -> str:
    if fingerprint is None:
        return _NONE
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:_DIGITS]

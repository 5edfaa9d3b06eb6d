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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from agentd.accounts import State

_DIGITS: Final = 6
_RESTS: Final = 1.0  # seconds by which timed work, such as the end of an entry, may differ between nodes
_NONE: Final = "-"  # the fingerprint of a state that is not compared
_STATE: Final = re.compile(r"(?<!\S)([0-9a-f]{1,16})/([0-9a-f]{1,16}|-)/(-?[0-9]{1,11})(?!\S)")


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


class Stay(NamedTuple):
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


def compare(ours: Sequence[Stay], theirs: Sequence[Stay]) -> Compared:
    """Compare the pasts of two nodes."""
    last = {one[:2]: one for one in theirs}
    agreed = -math.inf
    for one in ours:
        if same := last.get(one[:2]):
            meeting = max(one.start, same.start), min(one.end, same.end)
            agreed = max(agreed, *meeting)
    places: dict[str, list[Stay]] = defaultdict(list)
    for each in theirs:
        places[each.place].append(each)
    differing, found = 0.0, ("", "")
    for one in ours:
        for other in places.get(one.place, ()):
            together = min(one.end, other.end) - max(one.rests, other.rests, agreed)
            if together > 0 and one.fingerprint != other.fingerprint:
                differing += together
                found = one.fingerprint, other.fingerprint
    return Compared(agreed > -math.inf, differing, *found)


def stays(past: str, until: float) -> list[Stay]:
    """The well-formed states of a past; anybody with write access may have written anything.

    Args:
        past: the encoded past.
        until: unix time up to which its current state is known to have lasted.
    """
    found: list[Stay] = []
    place = fingerprint = ""
    rests = start = now = 0.0
    for one in [*_STATE.findall(past), ("", "", None)]:
        now = until if one[2] is None else now + float(one[2])
        if fingerprint not in ("", _NONE):
            found.append(Stay(place, fingerprint, start, max(start, now), rests))
        start, rests = now, now + _RESTS * (one[0] == place)
        place, fingerprint, _ = one
    return found


def began(past: str) -> float:
    """The unix time at which the past begins."""
    found = _STATE.match(past)
    return float(found[3]) if found else math.inf


def _digest(fingerprint: str | None) -> str:
    if fingerprint is None:
        return _NONE
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:_DIGITS]

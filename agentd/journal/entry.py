"""How a change ended for a handler: with exactly one outcome, and what is reported about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentd.watch.changes import Change

RELAY: Final = "fleet:relay"
"""The handler name under which events of kept names wait until they are in the fleet's log. No configured
handler can have this name."""
SUPERSEDED_BY: Final = "superseded by "
"""How the reason begins for a message that expired because a later one replaces it."""
BEFORE_START: Final = (
    "it is older than this handler, which does not do what was to be done before its first start"
)
"""The reason for a message that expired because it is older than a handler with `Handler.runs_once`."""


class Outcome(StrEnum):
    """The five ways in which a change can end for a handler."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Entry:
    """One change for one handler, as the journal stores it.

    Attributes:
        seq: order of arrival on this node.
        id: the change's id, with `#2` and so on for a replay.
        attempts: failed attempts so far.
        received: unix time of arrival.
        not_before: unix time of the next attempt at the earliest.
        generation: the generation that contains it and waits for its proof, or None.
        again: whether it is a state that had failed, and is tried until it succeeds or a newer one arrives.
    """

    seq: int
    handler: str
    id: str
    change: Change
    attempts: int
    received: float
    not_before: float
    generation: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one entry: what the log line, the metrics and the acknowledgement report.

    Attributes:
        reason: why it was not applied, or what else is worth knowing; never a payload.
        duration: seconds since the last attempt began.
        waited: seconds since it arrived.
    """

    entry: Entry
    outcome: Outcome
    reason: str = ""
    generation: int | None = None
    paths: tuple[str, ...] = ()
    duration: float = 0.0
    waited: float = 0.0

"""How a (change, handler) ended: exactly one outcome each, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from agentd.watch.changes import Change


class Outcome(StrEnum):
    """The five ends of a (change, handler)."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Entry:
    """One change owed to one handler, as the journal holds it.

    Attributes:
        seq: order of arrival on this node.
        id: the change's id, with `#2` and so on for a replay.
        attempts: failed attempts so far.
        received: unix time of arrival.
        not_before: unix time before which it is not tried again.
        generation: the commit that holds it and waits for its proof, or None.
    """

    seq: int
    handler: str
    id: str
    change: Change
    attempts: int
    received: float
    not_before: float
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one entry: what the log line, the metrics and the acknowledgement say.

    Attributes:
        reason: why it was not applied, or what else is worth saying; never a payload.
        duration: seconds from the beginning of the last attempt.
        waited: seconds from its arrival.
    """

    entry: Entry
    outcome: Outcome
    reason: str = ""
    generation: int | None = None
    paths: tuple[str, ...] = ()
    duration: float = 0.0
    waited: float = 0.0


Report = Callable[[Ending], None]

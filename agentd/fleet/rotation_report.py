"""How far the rotation of a ring of keys is, from what the nodes acknowledge.

Pure. A node reports the document that it has taken; its acknowledgement says which message is in force.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.newest import Newest
from agentd.fleet.standing import Member, Progress, progress

REPORTED: Final = "rotation"
"""What a handler reports it as; see `Handler.report`."""
IDLE: Final = "idle"
PHASES: Final = (IDLE, "staged", "promoted")
OVERDUE: Final = 3600.0
"""Seconds after which a rotation that waits is an alarm."""
_LATEST: Final = 10**11  # unix seconds: a year of four digits
_LAST: Final = 9 * 10**15  # of the numbers of messages
_NONE: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Rotation:
    """The newest step of a rotation that a node has taken.

    Attributes:
        handler: whose keys.
        name: of the log.
        phase: "idle", "staged" or "promoted".
        since: unix seconds at which the phase began, by the clock of whoever published it.
        num: the number of its message.
        waits: the nodes where it is not in force, with the reason.
    """

    handler: str
    name: str
    phase: str
    since: float
    num: int
    waits: tuple[Progress, ...] = ()

    @property
    def is_under_way(self) -> bool:
        """Whether another step follows."""
        return self.phase != IDLE

    def overdue(self, now: float) -> bool:
        """Whether it has waited for so long that somebody should look."""
        return self.is_under_way and now - self.since >= OVERDUE


def rotations(members: Iterable[Member], heads: Mapping[str, int] = _NONE) -> list[Rotation]:
    """The newest step of each handler's keys, by handler; nothing of a report that is malformed.

    A single node cannot make one up: what the log does not have yet counts last, and of different reports of
    one step that of most nodes.

    Args:
        members: the nodes.
        heads: the number of the newest message of each name; Consul may have lost it.
    """
    every = list(members)
    told = Counter(
        found
        for member in every
        for handler, report in (member.document.handlers.items() if member.document else ())
        if (found := _parsed(handler, report.names, report.report.get(REPORTED)))
    )

    def rank(one: Rotation) -> tuple[bool, int, int]:
        return one.num <= heads.get(one.name, _LAST), one.num, told[one]

    newest: dict[str, Rotation] = {}
    for one in sorted(told, key=rank):
        newest[one.handler] = one
    return [_with_waits(newest[handler], every) for handler in sorted(newest)]


def is_rotated(documents: Iterable[Acknowledgement], name: str) -> bool:
    """Whether a node has the document of a rotation under this name of the log."""
    return any(
        name in one.names and _parsed("", one.names, one.report.get(REPORTED))
        for document in documents
        for one in document.handlers.values()
    )


def _parsed(handler: str, names: tuple[str, ...], reported: Any) -> Rotation | None:  # noqa: ANN401 (any JSON)
    if not (isinstance(reported, Mapping) and len(names) == 1):
        return None
    phase, since, num = (reported.get(key) for key in ("phase", "since", "num"))
    if phase not in PHASES or type(since) is not int or type(num) is not int:
        return None
    return (
        Rotation(handler, names[0], phase, since, num) if 0 <= since < _LATEST and 0 < num < _LAST else None
    )


def _with_waits(one: Rotation, members: Iterable[Member]) -> Rotation:
    asked = Newest(one.name, one.num)
    takers = (member for member in members if member.document and one.name in member.document.names)
    found = (progress(member, asked) for member in takers)
    waits = tuple(step for step in found if step.state != "confirmed")
    return Rotation(one.handler, one.name, one.phase, one.since, one.num, waits)

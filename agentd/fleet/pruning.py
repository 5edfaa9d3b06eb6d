"""Which messages of a name are no longer kept, and the memory of those that went lately.

Pure rules. What is pruned is always the oldest: of a name that keeps the `latest`, all but a few (which
`agentd publish --again` can bring back); of one that keeps `all`, what has expired, is a week old or stands
before a snapshot, but never so much that a slow node's event would not be recognised any more.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agentd.errors import FleetError, UnknownFormat
from agentd.fleet.document import check_shape, is_time, optional, read_document, render_document
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head, leaves_room

LEAST: Final = 1024
"""Messages of a name that are kept in any case: four rings of an agent."""
MOST: Final = 4096
"""Messages of a name that are kept at most, but for a few that are pruned together."""
LATEST: Final = 16
"""Messages that are kept where the latest counts; twice as many before they are pruned."""
PRUNED_AT_ONCE: Final = 31
"""Messages that one transaction deletes: with 30 new ones, head, list and record, 64 operations."""
LONGEST: Final = 7 * 86400.0
"""Seconds for which messages are kept."""

_REMEMBERED: Final = 3600.0  # seconds for which the ID of a pruned message is known ...
_MOST_REMEMBERED: Final = 1024  # ... but no more than so many
_MARK: Final = 8  # bytes of an ID's digest
_LARGEST: Final = 64 * 1024
_WHAT: Final = "the list of pruned messages"


@dataclass(frozen=True, slots=True)
class Kept:
    """One of the oldest messages: its number, and the message, or why it cannot be read; None: it is gone."""

    num: int
    found: Envelope | FleetError | None


@dataclass(frozen=True, slots=True)
class Prune:
    """What to prune.

    Attributes:
        gone: the oldest messages, ascending.
        cut: the highest number among them that was still in force, 0 if none was.
    """

    gone: tuple[Kept, ...] = ()
    cut: int = 0


def is_due(head: Head) -> bool:
    """Whether anything may have to go, so that the oldest messages are worth a look."""
    if head.keep == "latest":
        return head.count > 2 * LATEST
    return head.count > LEAST or head.oldest < head.snapshot


def plan(head: Head, oldest: Sequence[Kept], now: float, confirmed: float) -> Prune:
    """Which of the oldest messages go.

    Args:
        head: as it will be with what is being appended.
        oldest: the oldest messages, ascending.
        now: unix seconds.
        confirmed: unix seconds that others agree to: a clock that is ahead must not make young messages old.
    """
    gone: list[Kept] = []
    cut = 0
    for one in oldest[:PRUNED_AT_ONCE]:
        left = head.count - len(gone)
        if one.num >= head.newest or not _goes(head, one, left, now, confirmed):
            break
        gone.append(one)
        if head.keep == "all" and one.num > head.snapshot and _is_in_force(one, now):
            cut = one.num
    return Prune(tuple(gone), cut)


def _goes(head: Head, one: Kept, left: int, now: float, confirmed: float) -> bool:
    if head.keep == "latest":
        return left > LATEST
    if one.num < head.snapshot or (left > MOST and head.count >= MOST + PRUNED_AT_ONCE):
        return True
    old = isinstance(one.found, Envelope) and one.found.issued < confirmed - LONGEST
    return left > LEAST and (old or not _is_in_force(one, now))


def _is_in_force(one: Kept, now: float) -> bool:
    """Whether somebody may still need it: also if only a newer agentd can tell."""
    if isinstance(one.found, Envelope):
        return not one.found.is_over(now)
    return isinstance(one.found, UnknownFormat)


def mark(identity: str) -> int:
    """What is remembered of the ID of a message: a part of its digest."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:_MARK], "big")


@dataclass(frozen=True, slots=True)
class Pruned:
    """The IDs of events whose messages were pruned in the last hour: they are not written again.

    Attributes:
        floor: of the head, in case the head is lost: what was forgotten would come back.
        groups: unix seconds, and the marks of the IDs that went then; the oldest first.
    """

    groups: tuple[tuple[float, tuple[int, ...]], ...] = ()
    floor: int = 0

    @property
    def marks(self) -> frozenset[int]:
        """All of them."""
        return frozenset(one for _, marks in self.groups for one in marks)

    def plus(self, ids: Iterable[str], now: float) -> Pruned:
        """With these IDs; what is too old, or too much, is forgotten."""
        more = tuple(map(mark, ids))
        groups = [group for group in self.groups if group[0] > now - _REMEMBERED]
        groups += [(now, more)] if more else []
        while sum(len(marks) for _, marks in groups) > _MOST_REMEMBERED:
            at, marks = groups[0]
            excess = sum(len(marks) for _, marks in groups) - _MOST_REMEMBERED
            groups[:1] = [(at, marks[excess:])] if len(marks) > excess else []
        return replace(self, groups=tuple(groups))

    def render(self) -> bytes:
        """As it is written."""
        return render_document(
            {
                "format": 1,
                "floor": self.floor or None,
                "ids": [[round(at, 3), _joined(marks)] for at, marks in self.groups],
            }
        )


def parse_pruned(raw: bytes) -> Pruned:
    """The list in these bytes. Raises UnknownFormat or BadDocument."""
    value = read_document(raw, largest=_LARGEST, formats=range(1, 2), what=_WHAT)
    check_shape(value, {"ids": _are_groups, "floor": optional(leaves_room)}, _WHAT)
    groups = tuple((float(at), _split(text)) for at, text in value["ids"])
    return Pruned(groups, value.get("floor") or 0)


def _are_groups(value: Any) -> bool:  # noqa: ANN401 (any JSON)
    return isinstance(value, list) and all(map(_is_group, value))


def _is_group(value: Any) -> bool:  # noqa: ANN401 (any JSON)
    if not (isinstance(value, list) and len(value) == 2 and is_time(value[0])):  # noqa: PLR2004 (a pair)
        return False
    try:
        return len(base64.b64decode(value[1], validate=True)) % _MARK == 0
    except (TypeError, ValueError):
        return False


def _joined(marks: Iterable[int]) -> str:
    return base64.b64encode(b"".join(one.to_bytes(_MARK, "big") for one in marks)).decode()


def _split(text: str) -> tuple[int, ...]:
    data = base64.b64decode(text)
    return tuple(int.from_bytes(data[at : at + _MARK], "big") for at in range(0, len(data), _MARK))

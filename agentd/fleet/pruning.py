"""Decides which messages of a name are pruned, and remembers the IDs of those pruned recently.

Pure rules. The oldest messages always go first. With `keep: latest` all but a few go (`agentd publish
--again` can bring those back), and nothing that nodes may take while a rollout is open. With `keep: all` a
message goes if it has expired, is a week old or precedes a snapshot, but enough stay to recognise the event
of a slow node.
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
"""Messages of a name that are always kept: four times an agent's event ring."""
MOST: Final = 4096
"""Most messages of a name, give or take a few, since several are pruned together."""
LATEST: Final = 16
"""Messages that stay with `keep: latest`; pruning starts at twice as many."""
LATEST_SEALED: Final = 1
"""Messages that stay with `keep: latest` once a sealed one for all nodes is the newest: old secrets go."""
PRUNED_AT_ONCE: Final = 31
"""Most messages that one transaction deletes: with 30 new ones, head, list and record, 64 operations."""
LONGEST: Final = 7 * 86400.0
"""Most seconds for which messages are kept."""

_REMEMBERED: Final = 3600.0  # seconds for which the ID of a pruned message is remembered
_MOST_REMEMBERED: Final = 1024  # IDs to remember
_MARK: Final = 8  # bytes of an ID's digest
_LARGEST: Final = 64 * 1024
_WHAT: Final = "the list of pruned messages"


@dataclass(frozen=True, slots=True)
class Kept:
    """One of the oldest messages: its number, and the message or why it is unreadable (None: gone)."""

    num: int
    found: Envelope | FleetError | None


@dataclass(frozen=True, slots=True)
class Prune:
    """What to prune.

    Attributes:
        gone: the messages to delete, ascending.
        cut: the highest number among them that is still in force; 0 if none is.
    """

    gone: tuple[Kept, ...] = ()
    cut: int = 0


def is_due(head: Head, newest: Envelope) -> bool:
    """Whether there may be something to prune, so that the oldest messages have to be read.

    Args:
        head: see `plan`.
        newest: see `plan`.
    """
    if head.keep == "latest":
        return head.count > (LATEST_SEALED if _replaces_secrets(newest) else 2 * LATEST)
    return head.count > LEAST or head.oldest < head.snapshot


def plan(head: Head, newest: Envelope, oldest: Sequence[Kept], now: float, confirmed: float) -> Prune:
    """Choose which of the oldest messages to prune.

    Args:
        head: the head including the messages that are being appended.
        newest: the last of these.
        oldest: the oldest messages, ascending.
        now: unix seconds.
        confirmed: unix seconds that other publishers confirm, so that a clock that is ahead does not make
            young messages old.
    """
    latest = LATEST_SEALED if _replaces_secrets(newest) else LATEST
    gone: list[Kept] = []
    cut = 0
    for one in oldest[:PRUNED_AT_ONCE]:
        left = head.count - len(gone)
        if one.num >= head.newest or not _goes(head, one, left, latest, now, confirmed):
            break
        gone.append(one)
        if head.keep == "all" and one.num > head.snapshot and _is_in_force(one, now):
            cut = one.num
    return Prune(tuple(gone), cut)


def _replaces_secrets(message: Envelope) -> bool:
    """Whether nobody needs the secrets in the messages before it."""
    return message.is_sealed and message.role == "all" and message.expires is None


def _goes(head: Head, one: Kept, left: int, latest: int, now: float, confirmed: float) -> bool:
    if head.keep == "latest":
        return left > latest and (head.released is None or one.num < head.released)
    if one.num < head.snapshot or (left > MOST and head.count >= MOST + PRUNED_AT_ONCE):
        return True
    old = isinstance(one.found, Envelope) and _written(one.found, confirmed) < confirmed - LONGEST
    return left > LEAST and (old or not _is_in_force(one, now))


def _written(message: Envelope, confirmed: float) -> float:
    """The earliest time at which a message may have been written.

    If its publisher's clock was behind, its number shows the time that those before it had reached, unless
    one of their clocks was far ahead.
    """
    reached = message.num / 1000
    return max(message.issued, reached) if reached < confirmed + LONGEST else message.issued


def _is_in_force(one: Kept, now: float) -> bool:
    """Whether a node may still need it; True also for a message that only a newer agentd can read."""
    if isinstance(one.found, Envelope):
        return not one.found.is_over(now)
    return isinstance(one.found, UnknownFormat)


def mark(identity: str) -> int:
    """A short digest of a message's ID, which is all that is remembered of it."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:_MARK], "big")


@dataclass(frozen=True, slots=True)
class Pruned:
    """The IDs of messages that were pruned in the last hour, so that their events are not written again.

    Attributes:
        groups: for each pruning its unix time and the marks of the IDs, oldest first.
        floor: a copy of the head's floor: without it, forgotten messages would return if the head is lost.
    """

    groups: tuple[tuple[float, tuple[int, ...]], ...] = ()
    floor: int = 0

    @property
    def marks(self) -> frozenset[int]:
        """The marks of all remembered IDs."""
        return frozenset(one for _, marks in self.groups for one in marks)

    def plus(self, ids: Iterable[str], now: float) -> Pruned:
        """Add these IDs, and drop those that are too old or too many."""
        more = tuple(map(mark, ids))
        groups = [group for group in self.groups if group[0] > now - _REMEMBERED]
        groups += [(now, more)] if more else []
        while sum(len(marks) for _, marks in groups) > _MOST_REMEMBERED:
            at, marks = groups[0]
            excess = sum(len(marks) for _, marks in groups) - _MOST_REMEMBERED
            groups[:1] = [(at, marks[excess:])] if len(marks) > excess else []
        return replace(self, groups=tuple(groups))

    def render(self) -> bytes:
        """The document for Consul."""
        return render_document(
            {
                "format": 1,
                "floor": self.floor or None,
                "ids": [[round(at, 3), _joined(marks)] for at, marks in self.groups],
            }
        )


def parse_pruned(raw: bytes) -> Pruned:
    """Parse the list. Raises UnknownFormat or BadDocument."""
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

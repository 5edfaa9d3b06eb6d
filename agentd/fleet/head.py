"""The keys below `names/`, the only prefix that nodes watch: the head of each name, and the fleet's record.

Owns their format. A head summarises a name's log. It is changed only by check-and-set, in one transaction
with the messages (`writer.py`). A node trusts a head only once it has read the newest message named there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Final, Literal, cast

from agentd.errors import BadDocument
from agentd.fleet.document import check_shape, optional, read_document, render_document
from agentd.fleet.keys import POISONED, is_number

FORMAT: Final = 1
OPEN: Final = 2
"""The format of heads while a rollout is open: agentd before that would end it unawares."""
FORMATS: Final = range(1, OPEN + 1)
LARGEST_HEAD: Final = 4 * 1024
"""Most bytes of a head: every node reads all heads whenever one of them changes."""
LARGEST_INLINE: Final = 2 * 1024
"""Most bytes of the newest message for a copy in the head."""
MOST_RECENT: Final = 60
"""Most numbers that a head lists: as many messages as one read-only transaction fetches."""

Keep = Literal["latest", "all"]
"""What is kept of a name: the newest message, which replaces earlier ones, or all that have not expired."""

LAST: Final = POISONED - 10**12
"""The highest number up to which a head is rebuilt: there must be numbers left for more messages."""

_MOST_COUNTED: Final = 1_000_000
_HEAD: Final = "the head"
_FLEET: Final = "the fleet's record"


def _is_position(value: object) -> bool:
    return (type(value) is int and value == 0) or is_number(value)


def leaves_room(value: object) -> bool:
    """Whether this can be the last number of a log without a message that proves it."""
    return _is_position(value) and cast("int", value) <= LAST


def _are_steps(value: object) -> bool:
    return isinstance(value, list) and len(value) < MOST_RECENT and all(map(is_number, value))


_SHAPE: Final = {
    "keep": lambda value: value in ("latest", "all"),
    "newest": _is_position,
    "oldest": _is_position,
    "floor": optional(_is_position),
    "base": optional(_is_position),
    "cut": optional(_is_position),
    "snapshot": optional(_is_position),
    "mended": optional(_is_position),
    "released": optional(_is_position),
    "count": lambda value: type(value) is int and 0 <= value <= _MOST_COUNTED,
    "recent": optional(_are_steps),
    "inline": optional(lambda value: isinstance(value, str) and len(value) <= LARGEST_INLINE),
}


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one name.

    Attributes:
        keep: which messages are kept.
        newest: the number of the newest message; it never falls. 0 if there never was one.
        oldest: the number of the oldest kept message; 0 if none is kept.
        count: the number of kept messages, by which a writer knows when to prune; may include junk.
        floor: messages up to this number were forgotten on purpose, and are not written back.
        base: messages up to this number were pruned; a missing message above it was lost.
        cut: the highest number that was pruned while still in force; 0 if none was. A node that has not come
            that far is incomplete, until there is a snapshot above it.
        snapshot: the number of the newest snapshot, which replaces all messages before it; 0 if none.
        mended: unix milliseconds at which the log was last changed other than by appending: messages were
            written back, or the head was rebuilt. A node that sees a new value compares the log with its
            copy. 0 for never.
        released: the number of the newest message for all nodes while a rollout is open, 0 if there is none;
            None if no rollout is open. It and what came later are not pruned, since nodes take either.
        recent: the numbers of the newest messages, ascending, `newest` last.
        inline: the newest message, verbatim, if it is small.
    """

    keep: Keep
    newest: int = 0
    oldest: int = 0
    count: int = 0
    floor: int = 0
    base: int = 0
    cut: int = 0
    snapshot: int = 0
    mended: int = 0
    released: int | None = None
    recent: tuple[int, ...] = ()
    inline: bytes | None = field(default=None, repr=False)

    def above(self, num: int) -> tuple[int, ...] | None:
        """The numbers of all kept messages above `num`, ascending.

        None if the head does not list them all: then the keys below `messages/NAME/` have to be listed.
        """
        if num >= self.newest or self.is_empty:
            return ()
        lowest = max(num, self.floor)
        if self.recent and self.recent[0] <= max(self.oldest, lowest + 1):
            return tuple(one for one in self.recent if one > lowest)
        return None

    @property
    def is_empty(self) -> bool:
        """Whether no message is kept."""
        return not self.oldest

    def cut_for(self, keep: Keep) -> int:
        """`cut` as it applies to `keep`: a log of the latest has pruned messages that `all` would need."""
        lost = self.keep == "latest" and keep == "all" and self.base > self.floor
        return max(self.cut, self.base) if lost else self.cut

    def render(self) -> bytes:
        """The document for Consul, without the inline message if that makes it too large."""
        recent = self.recent[-MOST_RECENT:]
        if self.inline is not None and len(self.inline) <= LARGEST_INLINE:
            data = self._rendered(recent, self.inline)
            if len(data) <= LARGEST_HEAD:
                return data
        return self._rendered(recent, None)

    def _rendered(self, recent: Sequence[int], inline: bytes | None) -> bytes:
        return render_document(
            {
                "format": FORMAT if self.released is None else OPEN,
                "keep": self.keep,
                "newest": self.newest,
                "oldest": self.oldest,
                "count": self.count,
                "floor": self.floor or None,
                "base": self.base or None,
                "cut": self.cut or None,
                "snapshot": self.snapshot or None,
                "mended": self.mended or None,
                "released": self.released,
                # From the newest backwards, each as the distance to the next, which is mostly small.
                "recent": [after - before for before, after in pairwise(recent)][::-1] or None,
                "inline": None if inline is None else inline.decode("ascii"),
            }
        )


def parse_head(raw: bytes) -> Head:
    """Parse a head.

    Raises:
        UnknownFormat: a newer agentd wrote it.
        BadDocument: it is malformed, or leaves no number for the next message.
    """
    value = read_document(raw, largest=LARGEST_HEAD, formats=FORMATS, what=_HEAD)
    check_shape(value, _SHAPE, _HEAD)
    newest, oldest, count = value["newest"], value["oldest"], value["count"]
    inline, released = value.get("inline"), value.get("released")
    marks = {name: value.get(name) or 0 for name in ("floor", "base", "cut", "snapshot")}
    if (oldest == 0) != (count == 0) or max(oldest, *marks.values()) > newest or not (inline or "").isascii():
        raise BadDocument(f"{_HEAD} contradicts itself")
    if (released is None) != (value["format"] == FORMAT) or (released or 0) > newest:
        raise BadDocument(f"{_HEAD} contradicts itself")
    if not count and not leaves_room(newest):
        raise BadDocument(f"{_HEAD} leaves no number for a message")
    recent = _recent(newest, value.get("recent") or []) if count else ()
    if recent and (recent[0] < oldest or len(recent) > count):
        raise BadDocument(f"{_HEAD} lists messages that are not kept")
    return Head(
        keep=cast("Keep", value["keep"]),
        newest=newest,
        oldest=oldest,
        count=count,
        mended=value.get("mended") or 0,
        released=released,
        recent=recent,
        inline=inline.encode("ascii") if inline else None,
        **marks,
    )


def _recent(newest: int, steps: Sequence[int]) -> tuple[int, ...]:
    return tuple(accumulate((-step for step in steps), initial=newest))[::-1]


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """The fleet's own record, `names/_fleet`. It is always there, so an empty prefix means lost data.

    Attributes:
        floor_format: the lowest message format that may be written; 0 for any.
    """

    floor_format: int = 0

    def render(self) -> bytes:
        """The document for Consul."""
        return render_document({"format": FORMAT, "floor_format": self.floor_format or None})


_RECORD: Final[dict[str, Any]] = {
    "floor_format": optional(lambda value: type(value) is int and 0 <= value < _MOST_COUNTED),
}


def parse_record(raw: bytes) -> FleetRecord:
    """Parse the fleet's record. Raises UnknownFormat or BadDocument, as for `parse_head`."""
    value = read_document(raw, largest=LARGEST_HEAD, formats=range(1, FORMAT + 1), what=_FLEET)
    check_shape(value, _RECORD, _FLEET)
    return FleetRecord(value.get("floor_format") or 0)

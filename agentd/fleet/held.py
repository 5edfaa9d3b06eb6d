"""What one node holds of a name's log, in case Consul loses it.

Pure: what of it is lost, and the head that the log has once that is back.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, replace

from agentd.fleet.envelope import Envelope
from agentd.fleet.head import MOST_RECENT, Head


@dataclass(frozen=True, slots=True)
class Held:
    """What a node holds of one name.

    Attributes:
        head: as it last saw it, and believed it.
        messages: those that it holds, verbatim and ascending, each ID once; bodies are held apart.
    """

    head: Head
    messages: Sequence[Envelope] = ()

    def wanted(self, head: Head | None, now: float) -> list[Envelope]:
        """The messages that must be in the log: in force, and neither forgotten nor pruned.

        The newest is one of them even if its time is over: the numbers go on from it.

        Args:
            head: what Consul has now; None for nothing.
            now: unix seconds.
        """
        marks = self.merged(head)
        last = self.messages[-1].num if self.messages else 0
        return [
            one
            for one in self.messages
            if one.num > max(marks.floor, marks.base) and (one.num == last or not one.is_over(now))
        ]

    def missing(
        self, head: Head | None, numbers: Container[int], ids: Container[str], now: float
    ) -> list[Envelope]:
        """Those of the `wanted` that the log has neither at their number nor, by their ID, at another one."""
        return [one for one in self.wanted(head, now) if one.num not in numbers and one.id not in ids]

    def knows_more(self, head: Head | None) -> bool:
        """Whether a mark of the log is lost: it stands in the head that is held, and not in this one."""
        if head is None:
            return bool(self.messages) or self.head.floor > 0
        held, found = ((one.floor, one.base, one.cut, one.snapshot) for one in (self.head, head))
        return any(min(mark, head.newest) > known for mark, known in zip(held, found, strict=True))

    def merged(self, head: Head | None) -> Head:
        """The marks that hold, whichever of the two heads has them."""
        if head is None:
            return self.head
        return replace(
            head,
            keep="all" if "all" in (head.keep, self.head.keep) else "latest",
            newest=max(head.newest, self.head.newest),
            inline=head.inline if head.newest >= self.head.newest else None,
            floor=max(head.floor, self.head.floor),
            base=max(head.base, self.head.base),
            cut=max(head.cut, self.head.cut),
            snapshot=max(head.snapshot, self.head.snapshot),
        )


def listing(marks: Head, numbers: Collection[int]) -> Head:
    """A head with the same marks, for a log of these messages.

    Args:
        marks: what the head says beside its numbers; the newest message, if it is still that.
        numbers: of all messages that the log has; none is at or below `floor`.
    """
    ordered = sorted(numbers)
    highest = ordered[-1] if ordered else marks.newest
    return replace(
        marks,
        newest=highest,
        oldest=ordered[0] if ordered else 0,
        count=len(ordered),
        cut=min(marks.cut, highest),
        base=min(marks.base, highest),
        floor=min(marks.floor, highest),
        snapshot=min(marks.snapshot, highest),
        recent=tuple(ordered[-MOST_RECENT:]),
        inline=marks.inline if ordered and highest == marks.newest else None,
    )

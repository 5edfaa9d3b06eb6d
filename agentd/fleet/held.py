"""What one node holds of a name's log, in case Consul loses it.

Pure: what of it is lost, and the head that the log has once that is back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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

    def is_lost(self, head: Head | None, now: float) -> bool:
        """Whether the log seems to be gone, or older than what is held; a second look is to confirm it."""
        wanted = self.wanted(head, now)
        if head is None:
            return bool(wanted) or self.head.floor > 0
        newest = wanted[-1].num if wanted else 0
        return head.newest < newest or head.count < len(wanted) or head.floor < self.head.floor

    def merged(self, head: Head | None) -> Head:
        """The marks that hold, whichever of the two heads has them."""
        if head is None:
            return self.head
        return replace(
            head,
            keep="all" if "all" in (head.keep, self.head.keep) else "latest",
            newest=max(head.newest, self.head.newest),
            floor=max(head.floor, self.head.floor),
            base=max(head.base, self.head.base),
            cut=max(head.cut, self.head.cut),
            snapshot=max(head.snapshot, self.head.snapshot),
        )


def listing(marks: Head, numbers: Collection[int], newest: bytes | None) -> Head:
    """A head with the same marks, for a log of these messages.

    Args:
        marks: what the head says beside its numbers.
        numbers: of all messages that the log has; none is at or below `floor`.
        newest: the newest of them, as it lies in Consul.
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
        inline=newest,
    )

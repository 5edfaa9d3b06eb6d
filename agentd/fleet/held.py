"""Compares a node's copy of a name's log with what Consul has.

Pure. Works out which messages Consul has lost, and the head of the log once they are written back.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from agentd.fleet.envelope import Envelope
from agentd.fleet.head import MOST_RECENT, Head
from agentd.fleet.rollout import Role, released


@dataclass(frozen=True, slots=True)
class Held:
    """A node's copy of one name's log.

    Attributes:
        head: the last head that was verified.
        messages: the messages, verbatim and ascending, each ID once; bodies are stored separately.
    """

    head: Head
    messages: Sequence[Envelope] = ()

    def wanted(self, head: Head | None, now: float) -> list[Envelope]:
        """The messages that must be in the log: not expired, forgotten or pruned.

        The newest message must be there even if it has expired, since numbering continues from it.

        Args:
            head: the head that Consul has now; None if it has none.
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
        """The `wanted` messages that the log has neither at their number nor, under their ID, at another.

        Above the newest number of the log the ID does not count: nodes that have come so far would miss
        whatever is written below.
        """
        newest = head.newest if head else 0
        lost = (one for one in self.wanted(head, now) if one.num not in numbers)
        return [one for one in lost if one.id not in ids or one.num > newest]

    def knows_more(self, head: Head | None) -> bool:
        """Whether this head has lost a mark that the copy has."""
        if head is None:
            return bool(self.messages) or self.head.floor > 0
        held, found = ((one.floor, one.base, one.cut, one.snapshot) for one in (self.head, head))
        return any(min(mark, head.newest) > known for mark, known in zip(held, found, strict=True))

    def merged(self, head: Head | None) -> Head:
        """The head that Consul has, with the higher of each mark in it and in the copy."""
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


def listing(marks: Head, numbers: Collection[int], roles: Mapping[int, Role]) -> Head:
    """A head with the same marks, for a log with these messages.

    Args:
        marks: a head whose marks to take, and its inline message if that is still the newest.
        numbers: the numbers of all messages in the log; all above `floor`.
        roles: by number, whom those messages are for that can be read; from it follows whether a rollout is
            open. There may be others.
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
        released=_released(marks, {num: roles[num] for num in ordered if num in roles}),
        recent=tuple(ordered[-MOST_RECENT:]),
        inline=marks.inline if ordered and highest == marks.newest else None,
    )


def _released(marks: Head, roles: Mapping[int, Role]) -> int | None:
    return released(roles) if marks.keep == "latest" else None

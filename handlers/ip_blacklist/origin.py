"""What an event or message says of the entries that it brings: by whom they came, since when, until when.

Owns the rules of time. An event counts from now. A message of the fleet's log counts from the time that it
names itself: what is over by that is over on every node, whenever it gets there. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentd.handler import Event
from handlers.ip_blacklist.entries import Entry, word
from handlers.ip_blacklist.payload import Operation


@dataclass(frozen=True, slots=True)
class Origin:
    """Where entries come from. Times are unix seconds.

    Attributes:
        change: the ID of the event.
        now: when it is applied.
        counts_from: from when a TTL counts; of a message whose publisher's clock is ahead, later than `now`.
        lasts: seconds from then for which the message itself is valid, None for good.
    """

    change: str
    now: float
    counts_from: float
    lasts: float | None = None

    @classmethod
    def of(cls, event: Event, now: float) -> Origin:
        """That of an event which is applied now."""
        message = event.message
        if message is None:
            return cls(word(event.id), now, now)
        lasts = None if message.expires is None else message.expires - message.issued
        return cls(word(event.id), now, message.counts_from, lasts)

    def entry(self, operation: Operation, before: Entry | None) -> Entry:
        """What an `add` makes.

        Args:
            operation: the `add`.
            before: what the same event made of this CIDR before, such as while the log could not be reached:
                its time goes on, and does not begin again.
        """
        since, ends = min(self.counts_from, self.now), []
        if operation.ttl is not None:
            ends.append(self.counts_from + operation.ttl)
        if self.lasts is not None:
            ends.append(self.counts_from + self.lasts)
        if before is not None:
            since = min(since, before.since)
            ends += [] if before.until is None else [before.until]
        block = operation.block
        return Entry(block, (block.range,), min(ends, default=None), since, self.change, operation.reason)

    def shortens(self, entry: Entry, there: Entry | None) -> bool:
        """Whether this entry may not replace the one that is there.

        A node that comes after a message has expired never hears of it, and still has what was there.
        """
        if self.lasts is None or there is None or entry.until is None:
            return False
        return there.until is None or there.until > entry.until

"""What a writer has read of one name, so that it need not read it again before each message. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from agentd.fleet.envelope import Envelope
from agentd.fleet.pruning import Kept, mark
from agentd.fleet.reader import MOST_LISTED

_PUBLISHERS: Final = 64  # publishers to remember


@dataclass(slots=True)
class View:
    """What has been read of one name, and what is known from it.

    Attributes:
        cursor: the number up to which it has read.
        least: new messages get higher numbers than this one, whatever Consul has.
        marks: the marks of the IDs that it has read, with their numbers.
        is_new: whether nothing has been read or written yet.
        is_partial: whether the IDs up to the cursor were not read, since they were not needed.
        taken: numbers that are taken by junk.
        suspect: whether the head has to be rebuilt from the messages.
        is_settled: whether the next message need not be the successor of the last one read.
        numbers: the numbers of the oldest messages, ascending, as listed for pruning.
        oldest: the first of those messages.
        mended: `Head.mended` of the log as it was read.
        newest: the number of the newest event that was read, and the node that wrote it.
        issued: by publisher, the time of issue of the last message read; for a few publishers.
    """

    cursor: int = 0
    least: int = 0
    marks: dict[int, int] = field(default_factory=dict)
    is_new: bool = True
    is_partial: bool = False
    taken: frozenset[int] = frozenset()
    suspect: bool = False
    is_settled: bool = False
    numbers: list[int] = field(default_factory=list)
    oldest: list[Kept] = field(default_factory=list)
    mended: int = 0
    newest: tuple[int, str] = (0, "")
    issued: dict[str, float] = field(default_factory=dict)

    def saw(self, message: Envelope) -> None:
        """Remember a message that is in the log."""
        self.learn([(mark(message.id), message.num)])
        if message.event:
            self.newest = max(self.newest, (message.num, message.publisher))
        self.date(message)

    def date(self, message: Envelope) -> None:
        """Remember when its publisher last issued a message."""
        self.issued.pop(message.publisher, None)
        self.issued[message.publisher] = message.issued
        if len(self.issued) > _PUBLISHERS:
            del self.issued[next(iter(self.issued))]

    def confirmed(self, publisher: str, now: float) -> float:
        """The latest time, up to `now`, that another publisher confirms; `now` if there is no other."""
        return min(now, max((at for other, at in self.issued.items() if other != publisher), default=now))

    def learn(self, marks: Iterable[tuple[int, int]]) -> None:
        """Remember the numbers of these marks; if there are too many, only the newest."""
        self.marks.update(marks)
        if len(self.marks) > 2 * MOST_LISTED:
            newest = sorted(self.marks.items(), key=lambda one: one[1])[-MOST_LISTED:]
            self.marks = dict(newest)

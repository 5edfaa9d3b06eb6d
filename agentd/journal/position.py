"""How far one configured handler has come in the log of one kept name, and what it still has to be given.

Pure: `followed` keeps the positions in the journal, and moves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agentd.errors import JournalError
from agentd.watch.changes import Event, Message

_MOST_TARGETED: Final = 64
_UNSET: Final = 86400.0  # seconds: a clock that is stepped by more was not set before


@dataclass(frozen=True, slots=True)
class Position:
    """How far one handler has come in the log of one name.

    Attributes:
        num: the number up to which it was given every message that concerns it; 0 before the first.
        joined: unix time at which it first followed the name; corrected if the clock was ahead at that time.
        there: the number of the newest message when it first read the log; None before that.
        provisional: the IDs of events that it was given provisionally, and whose messages have not come yet.
        owed: numbers up to `num` that it still has to be given: its queue was lost with the journal, or a
            message came late.
        late: the number of a message that entered the log after later ones were given. What is owed from
            there on is given again, in the log's order. None if there is no such message.
        incomplete_since: the number after which messages were pruned that it never got, or None.
        snapshot: the number of the last snapshot that it was given; 0 if none.
        replaced: the number after which only that snapshot has what was pruned, or None: if it is not
            applied, the handler is incomplete since then.
        targeted: the latest messages that it was given that are for some nodes only.
        rollout: the rollout to which the last message belongs that it was given to run, and the number of the
            first one of it; None if that message belongs to none, or aborted it.
    """

    num: int = 0
    joined: float = 0.0
    there: int | None = None
    provisional: tuple[str, ...] = ()
    owed: tuple[int, ...] = ()
    late: int | None = None
    incomplete_since: int | None = None
    snapshot: int = 0
    replaced: int | None = None
    targeted: tuple[int, ...] = ()
    rollout: tuple[str, int] | None = None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Position:
        """Parse what `kept` returned. Raises JournalError if it is something else."""
        try:
            since, late, there = kept.get("incomplete_since"), kept.get("late"), kept.get("there")
            replaced, rollout = kept.get("replaced"), kept.get("rollout")
            return cls(
                num=int(kept["num"]),
                joined=float(kept["joined"]),
                there=None if there is None else int(there),
                provisional=tuple(map(str, kept.get("provisional", ()))),
                owed=tuple(map(int, kept.get("owed", ()))),
                late=None if late is None else int(late),
                incomplete_since=None if since is None else int(since),
                snapshot=int(kept.get("snapshot", 0)),
                replaced=None if replaced is None else int(replaced),
                targeted=tuple(map(int, kept.get("targeted", ()))),
                rollout=None if rollout is None else (str(rollout[0]), int(rollout[1])),
            )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise JournalError("a position in the fleet's log cannot be read: restart agentd") from error

    def kept(self) -> dict[str, Any]:
        """The position as JSON types, without empty fields."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @property
    def reads_from(self) -> int:
        """The number after which to read the log."""
        return min(self.num, *(one - 1 for one in self.owed)) if self.owed else self.num

    def wants(self, num: int) -> bool:
        """Whether it still has to be given this message."""
        return num > self.num or num in self.owed

    def at(self, now: float, there: int | None = None) -> Position:
        """The same position at unix time `now`. For `there` see `Followed.give`."""
        if there is not None and self.there is None:
            return replace(self, joined=now if abs(now - self.joined) > _UNSET else self.joined, there=there)
        if self.joined <= now:
            return self
        # The clock was set back since then: the newest message at that time tells better when it was.
        return replace(self, joined=min(now, (self.there or 0) / 1000))

    def predates(self, message: Message, now: float) -> bool:
        """Whether a message is older than the handler's first start; `now` is unix time.

        A message that was there when the log was first read cannot be from the future: then one of the two
        clocks is wrong, and the message is old.
        """
        return message.counts_from < self.joined or (
            message.num <= (self.there or 0) and message.issued > now
        )

    def ran_since(self, message: Message) -> int | None:
        """The number since which it has run what a message of a rollout brings; None if it has not.

        If a rollout is aborted, that is what it ran before, unless the rollout has reached it.
        """
        is_in = self.rollout is not None and self.rollout[0] == message.rollout
        if message.restores:
            return None if is_in else message.restores
        return self.rollout[1] if self.rollout and is_in else None

    def running(self, message: Message | None) -> Position:
        """The position once it was given this message to run."""
        if message is None or not message.rollout or message.restores:
            return self if self.rollout is None else replace(self, rollout=None)
        if self.rollout and self.rollout[0] == message.rollout:
            return self
        return replace(self, rollout=(message.rollout, message.num))

    def targeted_below(self, num: int) -> list[int]:
        """The targeted messages up to this one that no snapshot has replaced since."""
        first = self.snapshot if self.snapshot <= num else 0
        return [one for one in self.targeted if first <= one <= num]

    def repeats(self, num: int) -> bool:
        """Whether it has to be given this message again."""
        return self.late is not None and num >= self.late and num in self.owed

    def moved(self, news: Sequence[Event], upto: int, cut: int, pruned: int, *, latest: bool) -> Position:
        """The position after these messages, which are all the new ones up to number `upto`.

        For `cut`, `pruned` and `latest` see `Followed.give`.
        """
        incomplete = self.incomplete_since
        if self.num < cut and incomplete is None:
            incomplete = self.num
        snapshots = [one.index for one in news if one.message and one.message.snapshot]
        replaced = None if snapshots else self.replaced
        if any(one > cut for one in snapshots):
            passed = self.num if self.num < pruned else None
            replaced, incomplete = (passed if incomplete is None else incomplete), None
        # With `latest` a message replaces the ones before it, so its number says everything.
        targeted = {one.index for one in news if one.message and one.message.targeted and not latest}
        targeted |= {one for one in self.targeted if not snapshots or one >= self.snapshot}
        came = {one.id for one in news}
        owed = tuple(one for one in self.owed if one > upto)
        return replace(
            self,
            num=max(self.num, upto),
            provisional=tuple(one for one in self.provisional if one not in came),
            owed=owed,
            late=self.late if owed else None,
            incomplete_since=incomplete,
            snapshot=max(self.snapshot, *snapshots, 0),
            replaced=replaced,
            targeted=tuple(sorted(targeted)[-_MOST_TARGETED:]),
        )

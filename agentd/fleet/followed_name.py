"""Follows one kept name: reads what is new in its log, and queues it for the handlers, in order.

A handler's position is the number of a message that was actually read: the head alone does not move it. The
position and the queued messages are written in one transaction (`journal.followed`), so the thread may die at
any instruction.

While the fleet is frozen, what is new is read and remembered, but not queued, and the position stays.

While a node follows the log, a time to live counts from when the node first sees the message, whatever other
clocks say. For messages written while it did not follow, it counts from the time of issue, and those that
have expired are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from agentd.errors import BadDocument, FleetError, JournalError
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head, parse_head
from agentd.fleet.kept_name import Kept, NameStatus
from agentd.fleet.name_reader import MustWait, NameReader, Refused
from agentd.fleet.receipt import event_of
from agentd.fleet.refusals import Refusals
from agentd.fleet.witness import Witness
from agentd.journal.followed import Followed, Given
from agentd.journal.journal import Journal
from agentd.journal.position import Position
from agentd.watch.changes import Event

MOST_WAITING: Final = 1024
"""Most messages of a name that may wait for one handler; the rest is read once there is room."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of such messages; the last one may exceed it."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Found:
    """What was read of a name in one go.

    Attributes:
        wanted: the messages to queue.
        last: the number of the last message that counts; 0 if none does.
        read: how many concern this node.
        refused: the messages that this node does not believe.
        waits: why reading stopped, None if it did not.
        full: whether it stopped because nothing more can be queued.
    """

    wanted: list[Envelope] = field(default_factory=list)
    last: int = 0
    read: int = 0
    refused: list[Refused] = field(default_factory=list)
    waits: MustWait | None = None
    full: bool = False


class FollowedName:
    """One kept name; used by the follower's thread alone, except for `status`.

    Args:
        kept: the name and its handlers.
        reader: reads its messages.
        journal: stores the positions and takes the messages.
        held: returns why nothing new may be queued now; "" if it may.
        given: called with what was queued.
        refused: called with the name and the reason of each message that is not believed.
        witness: gets every head, and every message before it is queued.
        clock: unix seconds.

    Attributes:
        name: the event name.
        status: how far this node has come.
        was_read: whether the log was read, as far as it can be, since the start.
    """

    def __init__(  # noqa: PLR0913 (what it connects; all named at the one call)
        self,
        kept: Kept,
        reader: NameReader,
        journal: Journal,
        *,
        held: Callable[[], str],
        given: Callable[[Given], None],
        refused: Callable[[str, str], None],
        witness: Witness,
        clock: Callable[[], float],
    ) -> None:
        self.name = kept.name
        self.status = NameStatus()
        self.was_read = False
        self._kept = kept
        self._reader = reader
        self._journal = journal
        self._followed = Followed(journal)
        self._held = held
        self._given = given
        self._witness = witness
        self._clock = clock
        self._refusals = Refusals(kept.name, self._followed, given=given, refused=refused, clock=clock)
        self._judged: dict[frozenset[str], tuple[bytes, int]] = {}  # heads whose newest message is refused
        self._behind: set[str] = set()  # the handlers that did not get everything last time
        self._newest = 0  # the number of the newest message that was read
        self._checked: Head | None = None  # the last head in which dropped messages were looked for
        self._ahead: Head | None = None  # the last head of which everything was read while it was held back
        self._looked = 0  # `mended` of the head for which unread messages were last looked for

    def join(self) -> None:
        """Record that the handlers follow the name, from now on if they did not before.

        Raises:
            JournalError: it cannot be recorded.
        """
        self._note([self._followed.join(handler, self.name) for handler in self._kept.handlers])

    def fall_behind(self) -> None:
        """Treat what comes next as written while this node did not follow the log."""
        self._behind |= self._kept.handlers.keys()

    def advance(self, raw: bytes | None, *, live: bool) -> str | None:
        """Read and queue what is new.

        A handler that is stuck does not hold up the others: each group of them continues from where it is.

        Args:
            raw: the head as stored in Consul; None if there is none.
            live: whether this node has followed the heads without interruption.

        Returns:
            Why not everything was read: "" if the journal has no room. None if everything was.

        Raises:
            ConsulError: the log cannot be read.
            JournalError: the messages cannot be queued.
        """
        reasons = []
        for part in self._parts():
            ours = part.handlers.keys()
            caught_up = self._behind.isdisjoint(ours)
            self._behind |= ours
            try:
                self._follow(part, raw, live=live and caught_up)
            except MustWait as error:
                reasons.append(str(error))
            else:
                self._behind -= ours
        if not reasons and self._look_back(raw):
            return self.advance(raw, live=live)
        waits = max(reasons, key=len, default=None)
        self._note(self._positions(self._kept.handlers), waits or "")
        self.was_read = True
        return waits

    def _parts(self) -> list[Kept]:
        """The handlers in groups that have come equally far."""
        handlers = self._kept.handlers
        parts: dict[tuple[int, bool, bool], dict[str, bool]] = {}
        for (handler, once), at in zip(handlers.items(), self._positions(handlers), strict=True):
            group = at.reads_from, handler in self._behind, self._has_room([handler])
            parts.setdefault(group, {})[handler] = once
        return [replace(self._kept, handlers=some) for some in parts.values()]

    def _has_room(self, handlers: Iterable[str]) -> bool:
        many, size = self._followed.waiting(handlers, self.name)
        return _fits(many, size)

    def _positions(self, handlers: Iterable[str]) -> list[Position]:
        known = self._followed.positions()
        return [known.get((handler, self.name), Position()) for handler in handlers]

    def _note(self, positions: Sequence[Position], waits: str = "") -> None:
        """Update the status; log a new reason to wait once."""
        before = self.status
        if waits and waits != before.waits:
            _log.warning("fleet.waits", event_name=self.name, reason=waits)
        lost = [one.incomplete_since for one in positions if one.incomplete_since is not None]
        incomplete = min(lost, default=None)
        if incomplete is not None and before.incomplete_since is None:
            _log.warning("fleet.incomplete", event_name=self.name, since=incomplete)
        position = min((one.num for one in positions), default=0)
        self.status = NameStatus(
            newest=max(self._newest, *(one.num for one in positions), 0),
            position=position,
            incomplete_since=incomplete,
            waits=waits,
            since=(before.since or self._clock()) if waits else None,
        )

    # ------------------------------------------------------------------ reading

    def _follow(self, part: Kept, raw: bytes | None, *, live: bool) -> None:
        """Read and queue what is new for one group of handlers.

        Raises:
            MustWait: not everything can be queued yet.
            ConsulError, JournalError: as for `advance`.
        """
        try:
            head = None if raw is None else parse_head(raw)
        except FleetError as error:
            if isinstance(error, BadDocument):
                self._witness.saw(self.name, None)
            raise MustWait(self._reader.unusable(error)) from error
        self._witness.saw(self.name, head)
        if head is None or head.is_empty:  # nothing was published, or all of it was forgotten
            return
        self._tell_replayed(head)
        start = min(one.reads_from for one in self._positions(part.handlers))
        judged = raw or b"", start
        if head.newest > start and self._judged.get(frozenset(part.handlers)) != judged:
            if reason := self._held():
                self._read_ahead(head, start)
                raise MustWait(reason)
            if not self._has_room(part.handlers):
                raise MustWait
            self._read_up_to(part, judged[0], head, start, live=live)
            if not start:
                self._witness.has_all(self.name)
        if self._witness.lacks(self.name):
            self._read_for_witness(head)

    def _read_up_to(self, part: Kept, raw: bytes, head: Head, start: int, *, live: bool) -> None:
        found = _Found()
        try:
            self._collect(found, part, head, start, live=live)
        finally:  # what was read before an error counts
            self._refusals.tell(part.handlers, [one for one in found.refused if one.num < found.last])
            if found.last:
                self._queue(part, head, found.wanted, found.last, live=live)
            self._refusals.tell(part.handlers, found.refused)
        if found.waits:
            raise found.waits
        if found.full and found.last < head.newest:
            raise MustWait
        if any(one.num == head.newest and one.is_message for one in found.refused):
            self._judged[frozenset(part.handlers)] = raw, max(start, found.last)
            if not self._reader.is_there(self._witness.highest(self.name)):
                self._witness.saw(self.name, None)
        elif found.last < head.newest:
            self._reader.require_rights()
            self._witness.saw(self.name, None)
            raise MustWait(f"its head points to message {head.newest}, which is missing or unusable")
        if not live and found.read:
            _log.info("fleet.caught_up", event_name=self.name, messages=found.read, num=found.last)

    def _collect(self, found: _Found, part: Kept, head: Head, start: int, *, live: bool) -> None:
        for reading in self._reader.after(start, head):
            usable, found.waits, refused = self._reader.usable(reading, head.newest)
            found.refused += refused
            if usable:
                self._witness.read(self.name, head, usable)
                found.last = usable[-1].num
                self._newest = max(self._newest, found.last)
                found.refused += self._reader.expired(usable, live=live)
            some = [one for one in usable if self._reader.concerns(one, live=live)]
            found.read += len(some)
            found.wanted = (some[-1:] or found.wanted) if part.latest else [*found.wanted, *some]
            found.full = not _fits(len(found.wanted), sum(one.size for one in found.wanted))
            if found.waits or found.full:
                break
        if found.last and (waits := self._is_replay(found, head)):
            found.last, found.waits = 0, found.waits or waits

    def _read_ahead(self, head: Head, start: int) -> None:
        """Remember what is held back, so that it can be written back if Consul loses it meanwhile."""
        if head == self._ahead:
            return
        for reading in self._reader.after(max(start, self._witness.highest(self.name)), head):
            if usable := self._reader.usable(reading, head.newest).messages:
                self._witness.read(self.name, head, usable)
        self._ahead = head

    def _tell_replayed(self, head: Head) -> None:
        """Make known what is in the log again although this node has seen that it was dropped."""
        pruned = self._witness.pruned(self.name)
        if self._checked != head and head.oldest <= pruned:
            self._refusals.tell(self._kept.handlers, self._reader.replayed(head, pruned))
        self._checked = head

    def _is_replay(self, found: _Found, head: Head) -> MustWait | None:
        """Why not to follow a log in which nothing counts that is as new as what was followed before.

        That happens if this node lost its journal, and Consul shows an old snapshot, or whoever may write to
        the log an old message.
        """
        last, highest = found.last, self._witness.highest(self.name)
        if found.full and last < highest:  # there is more to read than fits
            last = max(last, self._reader.newest(head))
        if last >= highest:
            return None
        return MustWait(
            f"its newest message is {last}, and this node has seen message {highest}: it waits until the rest"
            " is written back, or a newer message is published"
        )

    def _read_for_witness(self, head: Head) -> None:
        """Read the whole log again, since this node's copy of it was lost or could not be written."""
        for reading in self._reader.after(0, head):
            usable = self._reader.usable(reading, head.newest).messages
            if usable:
                self._witness.read(self.name, head, usable)
            for message in usable:
                with suppress(MustWait):
                    self._payload(message, head)
        self._witness.has_all(self.name)

    def _look_back(self, raw: bytes | None) -> bool:
        """Look for messages that entered the log below what was read; return whether there were any.

        That happens when the log was lost, and somebody published before it was written back. With
        `keep: latest` it does not matter: the newest message was read.
        """
        head = None if self._kept.latest or raw is None else parse_head(raw)
        if head is None or head.mended == self._looked:
            return False
        if head.newest < max(one.num for one in self._positions(self._kept.handlers)):
            return False  # what follows has to be given again, and is not written back yet
        late = 0
        numbers = self._reader.numbers()
        unread = self._witness.unread(self.name, head, numbers)
        if unread is None:
            return False
        for reading in self._reader.portions(unread):
            usable, _, refused = self._reader.usable(reading, head.newest)
            self._refusals.tell(self._kept.handlers, refused)
            if usable:
                late += len(usable)
                self._followed.owe(self.name, self._kept.handlers, numbers, [one.num for one in usable])
                self._witness.read(self.name, head, usable)
        self._looked = head.mended
        if late:
            _log.warning("fleet.followed_late", event_name=self.name, messages=late)
            self.fall_behind()
        return late > 0

    # ------------------------------------------------------------------ queueing

    def _queue(self, part: Kept, head: Head, messages: Sequence[Envelope], upto: int, *, live: bool) -> None:
        """Queue messages, and move the positions up to number `upto`.

        All at once: a node that catches up then handles them together, and reloads nginx only once.

        Raises:
            MustWait: a payload is missing, or there is no room; the messages before that are queued.
        """
        many, size = self._followed.waiting(part.handlers, self.name)
        if not _fits(many, size):
            raise MustWait
        now = self._clock()
        events: list[Event] = []
        waits: MustWait | None = None
        for message in messages:
            if not _fits(many + len(events), size):
                waits, upto = MustWait(), events[-1].index
                break
            try:
                events.append(event_of(message, self._payload(message, head), now, live=live))
            except MustWait as error:
                if message.num < head.snapshot and self._reader.is_snapshot(head.snapshot):
                    continue  # that replaces it anyway
                if not events:
                    raise
                waits, upto = error, events[-1].index
                break
            size += message.size * 4 // 3  # the journal stores payloads in base64
        if refusal := self._journal.refusal():
            raise JournalError(refusal)
        cut = head.cut_for("latest" if part.latest else "all")
        there = 0 if live else self._there(part, head, upto)
        given = self._followed.give(
            self.name,
            part.handlers,
            events,
            upto,
            cut=cut,
            pruned=head.base,
            latest=part.latest,
            there=there,
        )
        self._announce(given)
        if waits:
            raise waits

    def _there(self, part: Kept, head: Head, read: int) -> int:
        """The number of the newest message that counts, for handlers that read the log for the first time."""
        if read == head.newest or all(one.there is not None for one in self._positions(part.handlers)):
            return read
        return max(read, self._reader.newest(head))

    def _announce(self, given: Given) -> None:
        if given.queued:
            _log.info(
                "fleet.followed",
                event_name=self.name,
                messages=len(given.queued),
                num=given.queued[-1][0].index,
                handlers=sorted({name for _, names in given.queued for name in names}),
            )
        if given.queued or given.endings:
            self._given(given)

    def _payload(self, message: Envelope, head: Head) -> bytes:
        """The payload of a message, shown to the witness if it is stored separately. Raises MustWait."""
        payload = self._reader.payload(message)
        if message.sha256:
            self._witness.read(self.name, head, (), {message.sha256: payload})
        return payload


def _fits(many: int, size: int) -> bool:
    """Whether another message may wait in addition to this many, of this many bytes."""
    return many < MOST_WAITING and size < MOST_BYTES

"""Follows one kept name: reads what is new in its log, and queues it for the handlers, in order.

A handler's position is the number of a message that was actually read: the head alone does not move it. The
position and the queued messages are written in one transaction (`journal.followed`), so the thread may die at
any instruction.

While a node follows the log, a time to live counts from when the node first sees the message, whatever other
clocks say. For messages written while it did not follow, it counts from the time of issue, and those that
have expired are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from agentd.errors import BadDocument, FleetError, JournalError
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head, parse_head
from agentd.fleet.name_reader import MustWait, NameReader
from agentd.fleet.receipt import event_of
from agentd.journal.followed import Followed, Given
from agentd.journal.journal import Journal
from agentd.journal.position import Position
from agentd.watch.changes import Event

MOST_WAITING: Final = 1024
"""Most messages of a name that may wait for one handler; the rest is read once there is room."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of such messages; the last one may exceed it."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept name, as configured on this node.

    Attributes:
        name: the event name.
        latest: whether each message replaces the ones before it (`keep: latest`).
        handlers: the configured handlers that take it, each with its `Handler.runs_once`.
    """

    name: str
    latest: bool
    handlers: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class NameStatus:
    """How far this node has come with one name; replaced as a whole, so that any thread may read it.

    Attributes:
        newest: the number of the newest message that was read; above `position` while some have to wait.
        position: the number up to which every handler has been given what concerns it.
        incomplete_since: the number after which messages were pruned that a handler never got, or None.
        waits: why reading is held up, "" if it is not.
        since: unix time since when it is held up, or None.
    """

    newest: int = 0
    position: int = 0
    incomplete_since: int | None = None
    waits: str = ""
    since: float | None = None


class Witness(Protocol):
    """Gets a copy of everything that is read of the log; `Holder` is one."""

    def saw(self, name: str, head: Head | None) -> None:
        """Report a name's head as Consul has it; None if it is missing or unusable."""
        ...

    def read(
        self, name: str, head: Head, messages: Sequence[Envelope], bodies: Mapping[str, bytes] | None = None
    ) -> None:
        """Report messages that were read and verified, or the bodies of some that were."""
        ...

    def lacks(self, name: str) -> bool:
        """Whether it needs the whole log of the name, even if no handler does."""
        ...

    def has_all(self, name: str) -> None:
        """Report that the whole log of the name was read."""
        ...

    def unread(self, name: str, head: Head, numbers: Iterable[int]) -> list[int] | None:
        """Which of the numbers of all messages were never read; None if unknown at the moment."""
        ...


class FollowedName:
    """One kept name; used by the follower's thread alone, except for `status`.

    Args:
        kept: the name and its handlers.
        reader: reads its messages.
        journal: stores the positions and takes the messages.
        given: called with what was queued.
        witness: gets every head, and every message before it is queued.
        clock: unix seconds.

    Attributes:
        name: the event name.
        status: how far this node has come.
    """

    def __init__(
        self,
        kept: Kept,
        reader: NameReader,
        journal: Journal,
        *,
        given: Callable[[Given], None],
        witness: Witness,
        clock: Callable[[], float],
    ) -> None:
        self.name = kept.name
        self.status = NameStatus()
        self._kept = kept
        self._reader = reader
        self._journal = journal
        self._followed = Followed(journal)
        self._given = given
        self._witness = witness
        self._clock = clock
        self._behind: set[str] = set()  # the handlers that did not get everything last time
        self._newest = 0  # the number of the newest message that was read
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
            raise MustWait(f"its head cannot be used: {error}") from error
        self._witness.saw(self.name, head)
        if head is None or head.is_empty:  # nothing was published, or all of it was forgotten
            return
        start = min(one.reads_from for one in self._positions(part.handlers))
        if head.newest > start:
            if not self._has_room(part.handlers):
                raise MustWait
            self._read_up_to(part, head, start, live=live)
            if not start:
                self._witness.has_all(self.name)
        if self._witness.lacks(self.name):
            self._read_for_witness(head)

    def _read_up_to(self, part: Kept, head: Head, start: int, *, live: bool) -> None:
        waits: MustWait | None = None
        read = last = 0
        full = False
        wanted: list[Envelope] = []
        try:
            for reading in self._reader.after(start, head):
                usable, waits = self._reader.usable(reading, head.newest)
                if usable:
                    self._witness.read(self.name, head, usable)
                    last = usable[-1].num
                    self._newest = max(self._newest, last)
                some = [one for one in usable if self._reader.concerns(one, live=live)]
                read += len(some)
                wanted = (some[-1:] or wanted) if part.latest else [*wanted, *some]
                full = not _fits(len(wanted), sum(one.size for one in wanted))
                if waits or full:
                    break
        finally:  # what was read before an error counts
            if last:
                self._queue(part, head, wanted, last, live=live)
        if waits:
            raise waits
        if last < head.newest:
            if full:
                raise MustWait
            self._reader.require_rights()
            self._witness.saw(self.name, None)
            raise MustWait(f"its head points to message {head.newest}, which is missing or unusable")
        if not live and read:
            _log.info("fleet.caught_up", event_name=self.name, messages=read, num=last)

    def _read_for_witness(self, head: Head) -> None:
        """Read the whole log again, since this node's copy of it was lost or could not be written."""
        for reading in self._reader.after(0, head):
            usable, _ = self._reader.usable(reading, head.newest)
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
            usable, _ = self._reader.usable(reading, head.newest)
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
                if message.num < head.snapshot:  # a snapshot replaces it anyway
                    continue
                if not events:
                    raise
                waits, upto = error, events[-1].index
                break
            size += message.size * 4 // 3  # the journal stores payloads in base64
        if refusal := self._journal.refusal():
            raise JournalError(refusal)
        cut = head.cut_for("latest" if part.latest else "all")
        there = 0 if live else head.newest
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

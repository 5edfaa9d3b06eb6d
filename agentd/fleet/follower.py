"""Follows the log: reads what is new of each kept name, and queues it for its handlers, in order.

The heads say what is new (`heads_poll`); messages are fetched by key. A head is believed only as far as there
are messages: the position of a handler is the number of a message that was read. What a node cannot use yet,
such as a message of a newer format, holds up what comes after it. The position moves with what is queued, in
one transaction (`journal.followed`), so that this thread may die at any instruction.

A time to live counts from when a node that listens sees a message first, whatever the clocks of others say.
Only what came about while it did not listen counts from when it was issued, and is passed over if it is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.errors import (
    AgentdError,
    BadDocument,
    ConsulError,
    ConsulRefused,
    FleetError,
    JournalError,
    UnknownFormat,
)
from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.fleet.head import Head, parse_head
from agentd.fleet.heads_poll import Heads
from agentd.fleet.keys import Keys
from agentd.fleet.reader import Reader, Reading
from agentd.fleet.receipt import event_of
from agentd.fleet.rights import rule
from agentd.fleet.target import Services, matches
from agentd.heartbeat import Heartbeat
from agentd.journal.followed import Followed, Given, Position
from agentd.journal.journal import Journal
from agentd.watch.changes import Event
from agentd.watch.poller import PollerStatus

MOST_WAITING: Final = 1024
"""Messages of one name that may wait for one handler; more are read once there is room."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Bytes of them that may, but for the last one."""
_GRACE: Final = 90.0  # seconds that one turn may take
_IDLE: Final = 5.0  # seconds between two looks at what no answer tells
_SOON: Final = Backoff(0.5, 10.0)
_ROOM: Final = 0.2
_REST: Final = 60.0  # seconds, if junk makes the log look longer than it is
_LISTENING: Final = 3 * _IDLE

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept name, as this node is configured.

    Attributes:
        latest: whether each message stands for those before it.
        handlers: who takes it, each with whether it does nothing twice (`Handler.runs_once`).
    """

    name: str
    latest: bool
    handlers: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class NameStatus:
    """What is known of one name; replaced as a whole, so that any thread may read it.

    Attributes:
        newest: the number of the newest message that the log is known to have.
        position: the number up to which every handler was given what concerns it.
        incomplete_since: the number after which messages were pruned that a handler never got, or None.
        waits: why not all is read, "" if it is, or is under way.
        since: unix time since when it waits, or None.
    """

    newest: int = 0
    position: int = 0
    incomplete_since: int | None = None
    waits: str = ""
    since: float | None = None


class Library(Protocol):
    """Where the log is read, for one thread."""

    @property
    def reader(self) -> Reader:
        """Of the log."""
        ...

    def services(self) -> Services:
        """Those of this node, as its agent says. Raises ConsulError."""
        ...

    def lacking(self) -> str:
        """The rules that the token lacks to read the log, "" for none. Raises ConsulError."""
        ...

    def close(self) -> None:
        """Close, from any thread; what is being read ends with an error."""
        ...


class Witness(Protocol):
    """Learns what is read of the log; `Holder` is one."""

    def saw(self, name: str, head: Head | None) -> None:
        """The head of a name as Consul has it; None if there is none, or none that can be used."""
        ...

    def read(
        self, name: str, head: Head, messages: Sequence[Envelope], bodies: Mapping[str, bytes] | None = None
    ) -> None:
        """These messages were read, and are believed; or only bodies of some that were."""
        ...

    def lacks(self, name: str) -> bool:
        """Whether its whole log is to be read, though no handler needs that."""
        ...

    def has_all(self, name: str) -> None:
        """The whole log of the name was read."""
        ...

    def unread(self, name: str, head: Head, numbers: Callable[[], Iterable[int]]) -> list[int]:
        """The numbers of messages that the log has, and that were never read; `numbers` lists all."""
        ...


class Poll(Protocol):
    """Says when there is news; `HeadsPoll` is one."""

    @property
    def status(self) -> PollerStatus:
        """Of the blocking query."""
        ...

    @property
    def too_large(self) -> bool:
        """Whether so much lies below the prefix that the answer is not read."""
        ...

    def start(self) -> None:
        """Start."""
        ...

    def close(self) -> None:
        """End, without waiting."""
        ...


def read_prefixes(keys: Keys) -> tuple[str, ...]:
    """Of the keys that a node reads to follow the log."""
    return keys.names, keys.every_message, keys.bodies


def _event_of(error: Exception) -> str:
    if isinstance(error, ConsulRefused):
        return "fleet.not_permitted"
    return "fleet.unreachable" if isinstance(error, ConsulError) else "fleet.not_followed"


class _Waits(Exception):  # noqa: N818 (nothing went wrong)
    """What comes next of a name has to wait; the text says why. "" for room in the journal."""


class Follower:
    """Follows the kept names, in two threads: one polls the heads, the other one reads and queues.

    Args:
        names: those that are kept.
        keys: of the fleet.
        node: asks for the name of this node, by which messages choose.
        journal: has the positions, and takes the messages.
        library: opens the log, and again after an error.
        poll: makes the poll of the heads, which is given what takes them.
        given: learns what was queued.
        witness: learns of every head, and of every message before it is queued.
        heartbeat: of the thread that reads.
        clock: unix seconds.

    Attributes:
        status: by name.
        trouble: why the log cannot be read now, "" if it can.
    """

    def __init__(  # noqa: PLR0913 (what it stands between; all named at the one call)
        self,
        names: Sequence[Kept],
        keys: Keys,
        node: Callable[[], str],
        journal: Journal,
        library: Callable[[], Library],
        poll: Callable[[Callable[[Heads], None]], Poll],
        *,
        given: Callable[[Given], None],
        witness: Witness,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = unix_time,
    ) -> None:
        self.status: Mapping[str, NameStatus] = {one.name: NameStatus() for one in names}
        self.trouble = ""
        self._names = tuple(names)
        self._keys = keys
        self._rules = " ".join(rule("read", prefix) for prefix in read_prefixes(keys))
        self._node = node
        self._journal = journal
        self._followed = Followed(journal)
        self._new_library = library
        self._given = given
        self._witness = witness
        self._heartbeat = heartbeat
        self._clock = clock
        self._poll = poll(self._came)
        self._lock = threading.Lock()
        self._news: Heads | None = None  # what came since the last turn
        self._heads: Heads | None = None  # what the last turn was about
        self._behind: set[tuple[str, str]] = set()  # name and handler: the last turn did not read all
        self._told: dict[str, int] = {}  # name -> the newest message that something was said of
        self._looked: dict[str, bytes] = {}  # the head of a name when it was last seen to lack nothing
        self._rests: dict[str, float] = {}  # until when there is no other such look, by the timer
        self._keyed = -_LISTENING  # when the heads were last read by key
        self._failures = 0
        self._untold = Given()
        self._library: Library | None = None
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fleet follow", daemon=True)

    def join_log(self) -> None:
        """Record that the handlers follow their names; those that did not, do from now on.

        Raises:
            JournalError: it cannot be recorded.
        """
        for kept in self._names:
            self._note(kept, [self._followed.join(handler, kept.name) for handler in kept.handlers])

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._poll.start()

    def close(self) -> None:
        """End the threads, without waiting for them."""
        self._stopped = True
        self._poll.close()
        self._woken.set()
        library = self._library
        if library is not None:
            library.close()

    def join(self, timeout: float) -> bool:
        """Wait for the thread that reads to end; return whether it did."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def too_large(self) -> bool:
        """Whether so much lies among the heads that they are read one by one, every few seconds."""
        return self._poll.too_large

    @property
    def poll(self) -> PollerStatus:
        """The state of the poll of the heads."""
        return self._poll.status

    # ------------------------------------------------------------------ the thread

    def _came(self, heads: Heads) -> None:
        """The heads as they are now, from the poll's thread; what was not read yet may be of any time."""
        with self._lock:
            before = self._news
            self._news = heads if before is None or before.live else replace(heads, live=False)
        self._woken.set()

    def _run(self) -> None:
        wait = _IDLE
        while not self._stopped:
            self._heartbeat.beat(wait + _GRACE)
            self._woken.wait(wait)
            self._woken.clear()
            if not self._stopped:
                self._heartbeat.beat(_GRACE)
                wait = self._turn()
        self._leave_library()

    def _turn(self) -> float:
        """Read what can be read now. Returns the seconds until the next look, if nothing comes before."""
        try:
            self._look()
            waits = [self._advance(kept) for kept in self._names] if self._heads else []
        except Exception as error:  # noqa: BLE001 (the thread must outlive any mistake; what it is, is told)
            return self._fail(error)
        if self.trouble:
            _log.info("fleet.reachable")
            self.trouble = ""
        if any(waits):
            self._failures += 1
            return min(_SOON.delay(self._failures), _IDLE)
        self._failures = 0
        return _IDLE if all(one is None for one in waits) else _ROOM

    def _fail(self, error: Exception) -> float:
        self._leave_library()
        self._behind = {(one.name, handler) for one in self._names for handler in one.handlers}
        self._failures += 1
        if self._stopped:
            return 0.0
        text = str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}: see the log"
        if isinstance(error, ConsulRefused):
            text = f"{text}; following the log needs {self._rules}"
        if text != self.trouble:
            trace = {} if isinstance(error, AgentdError) else {"exc_info": error}
            _log.warning(_event_of(error), reason=text, **trace)
        self.trouble = text
        return _SOON.delay(self._failures)

    def _look(self) -> None:
        """Take what came; read the heads by key if all of the prefix is too much; notice a loss."""
        with self._lock:
            news, self._news = self._news, None
        if news is not None:
            self._heads = news
        elif self._poll.too_large:
            now = time.monotonic()
            pairs = self._reader().kv.pairs([self._keys.head(one.name) for one in self._names])
            live = now - self._keyed < _LISTENING
            self._heads, self._keyed = Heads({key: one.value for key, one in pairs.items()}, live), now
        elif self._poll.status.alarming:  # an empty answer that is not believed: perhaps all is lost
            for name in self.status:
                self._witness.saw(name, None)

    def _reader(self) -> Reader:
        return self._open().reader

    def _open(self) -> Library:
        self._library = self._library or self._new_library()
        return self._library

    def _leave_library(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            library.close()

    # ------------------------------------------------------------------ one name

    def _advance(self, kept: Kept) -> str | None:
        """Read what is new of a name. Returns why not all of it: "" for want of room, None if it is all.

        A handler that is stuck keeps no other waiting: each part of them goes on from where it is.
        """
        heads = self._heads or Heads({}, live=False)
        raw = heads.values.get(self._keys.head(kept.name))
        reasons = []
        for part in self._parts(kept):
            ours = {(kept.name, handler) for handler in part.handlers}
            live = heads.live and self._behind.isdisjoint(ours)
            self._behind |= ours
            try:
                self._follow(part, raw, live=live)
            except _Waits as error:
                reasons.append(str(error))
            else:
                self._behind -= ours
        if not reasons:
            self._look_back(kept, raw)
        waits = max(reasons, key=len, default=None)
        self._note(kept, self._positions(kept), waits=waits or "")
        return waits

    def _look_back(self, kept: Kept, raw: bytes | None) -> None:
        """See whether messages came into the log below what was read.

        They do if it was lost, and somebody wrote to it before it was written back. Of `latest` the newest
        counts, which was read.
        """
        rests = time.monotonic() < self._rests.get(kept.name, 0.0)
        if kept.latest or raw is None or rests or self._looked.get(kept.name) == raw:
            return
        head = parse_head(raw)
        numbers: list[int] = []

        def listed() -> list[int]:
            numbers.extend(self._reader().numbers(kept.name))
            return numbers

        late = 0
        unread = self._witness.unread(kept.name, head, listed)
        for reading in self._reader().portions(kept.name, unread):
            usable, _ = self._usable(kept.name, reading, head.newest)
            if usable:
                late += len(usable)
                self._followed.owe(kept.name, kept.handlers, numbers, [one.num for one in usable])
                self._witness.read(kept.name, head, usable)
        self._looked[kept.name] = raw
        if late:
            _log.warning("fleet.followed_late", event_name=kept.name, messages=late)
            self._behind |= {(kept.name, handler) for handler in kept.handlers}
            self._woken.set()
        elif unread:  # junk
            self._rests[kept.name] = time.monotonic() + _REST

    def _parts(self, kept: Kept) -> list[Kept]:
        """The handlers of a name, those together that have come equally far."""
        parts: dict[tuple[int, bool, bool], dict[str, bool]] = {}
        for (handler, once), at in zip(kept.handlers.items(), self._positions(kept), strict=True):
            is_behind = (kept.name, handler) in self._behind
            which = at.reads_from, is_behind, self._has_room([handler], kept.name)
            parts.setdefault(which, {})[handler] = once
        return [replace(kept, handlers=some) for some in parts.values()]

    def _has_room(self, handlers: Iterable[str], name: str) -> bool:
        many, size = self._followed.waiting(handlers, name)
        return many < MOST_WAITING and size < MOST_BYTES

    def _positions(self, kept: Kept) -> list[Position]:
        known = self._followed.positions()
        return [known.get((handler, kept.name), Position()) for handler in kept.handlers]

    def _note(self, kept: Kept, positions: Sequence[Position], waits: str = "") -> None:
        """Keep the state of a name; tell a new reason to wait once."""
        before = self.status[kept.name]
        if waits and waits != before.waits:
            _log.warning("fleet.waits", event_name=kept.name, reason=waits)
        since = (before.since or self._clock()) if waits else None
        lost = [one.incomplete_since for one in positions if one.incomplete_since is not None]
        position = min((one.num for one in positions), default=0)
        incomplete = min(lost, default=None)
        if incomplete is not None and before.incomplete_since is None:
            _log.warning("fleet.incomplete", event_name=kept.name, since=incomplete)
        now = replace(
            before,
            newest=max(before.newest, position),
            position=position,
            incomplete_since=incomplete,
            waits=waits,
            since=since,
        )
        self.status = {**self.status, kept.name: now}

    def _follow(self, kept: Kept, raw: bytes | None, *, live: bool) -> None:
        """Read and queue what is new of a name.

        Raises:
            _Waits: not all of it can be used now.
            ConsulError, JournalError: it cannot be read, or not be written.
        """
        try:
            head = None if raw is None else parse_head(raw)
        except FleetError as error:
            if isinstance(error, BadDocument):
                self._witness.saw(kept.name, None)
            raise _Waits(f"its head cannot be used: {error}") from error
        self._witness.saw(kept.name, head)
        start = min(one.reads_from for one in self._positions(kept))
        if head is not None and head.newest > start and head.count:  # else all of it was forgotten
            if not self._has_room(kept.handlers, kept.name):
                raise _Waits
            self._read_up_to(kept, head, start, live=live)
            if not start:
                self._witness.has_all(kept.name)
        if head is not None and head.count and self._witness.lacks(kept.name):
            self._hold(kept.name, head)

    def _hold(self, name: str, head: Head) -> None:
        """Read the whole log once more: what this node held of it is lost, or could not be written."""
        for reading in self._reader().after(name, 0, head):
            usable, _ = self._usable(name, reading, head.newest)
            if usable:
                self._witness.read(name, head, usable)
            for message in usable:
                if message.sha256:
                    with suppress(_Waits):
                        self._body(message, head)
        self._witness.has_all(name)

    def _read_up_to(self, kept: Kept, head: Head, start: int, *, live: bool) -> None:
        waits: _Waits | None = None
        read = last = 0
        wanted: list[Envelope] = []
        try:
            for reading in self._readings(kept.name, start, head):
                usable, waits = self._usable(kept.name, reading, head.newest)
                if usable:
                    self._witness.read(kept.name, head, usable)
                    last = usable[-1].num
                some = [one for one in usable if self._concerns(one, live=live)]
                if kept.latest:
                    wanted = some[-1:] or wanted
                else:
                    self._queue(kept, head, some, last, live=live)
                read += len(some)
                if waits:
                    break
            if kept.latest and last:
                self._queue(kept, head, wanted, last, live=live)
        finally:
            self._tell_given()
        if waits:
            raise waits
        if last < head.newest:
            if lacking := self._open().lacking():
                raise _Waits(f"the token may not read its messages: add to the token's policy: {lacking}")
            self._witness.saw(kept.name, None)
            raise _Waits(f"its head points to message {head.newest}, which is missing or unusable")
        if not live and read:
            _log.info("fleet.caught_up", event_name=kept.name, messages=read, num=last)

    def _readings(self, name: str, start: int, head: Head) -> Iterable[Reading]:
        """All messages above `start`; the newest stands in its head, and is not fetched if it is all."""
        if head.inline is not None and head.above(start) == (head.newest,):
            try:
                newest = parse_envelope(head.inline)
                if newest.lies_at(self._keys, self._keys.message(name, head.newest)):
                    return [Reading((newest,))]
            except FleetError:  # as it lies in its own key is what counts
                pass
        return self._reader().after(name, start, head)

    def _usable(self, name: str, reading: Reading, newest: int) -> tuple[list[Envelope], _Waits | None]:
        """The messages up to the newest, and up to the first that has to wait; why that has to."""
        found: list[Envelope] = []
        by_num = {one.num: one for one in reading.messages}
        for num in sorted({*by_num, *reading.troubles}):
            if num > newest:
                break
            if num in by_num:
                found.append(by_num[num])
            elif isinstance(trouble := reading.troubles[num], UnknownFormat):
                self._tell("fleet.waits_for_format", name, num, trouble)
                return found, _Waits(f"message {num} is of a newer format: upgrade agentd")
            else:  # junk: nobody applies it
                self._tell("fleet.message_unusable", name, num, trouble)
        return found, None

    def _concerns(self, message: Envelope, *, live: bool) -> bool:
        """Whether a handler of this node is to be given the message."""
        if message.kind != "payload" or (not live and message.is_over(self._clock())):
            return False
        try:
            return matches(message, self._node, lambda: self._open().services())
        except BadDocument as error:
            self._tell("fleet.message_unusable", message.name, message.num, error)
            return False

    def _tell(self, event: str, name: str, num: int, error: FleetError) -> None:
        """Log what is wrong with a message, once, however often it is read."""
        if num > self._told.get(name, 0):
            self._told[name] = num
            _log.warning(event, event_name=name, num=num, reason=str(error))

    # ------------------------------------------------------------------ into the journal

    def _queue(self, kept: Kept, head: Head, messages: Sequence[Envelope], upto: int, *, live: bool) -> None:
        """Queue messages, and move the positions up to a number.

        Raises:
            _Waits: the body of one is not there, or there is no room; those before it are queued.
        """
        many, size = self._followed.waiting(kept.handlers, kept.name)
        if many >= MOST_WAITING or size >= MOST_BYTES:
            raise _Waits
        now = self._clock()
        events: list[Event] = []
        waits: _Waits | None = None
        for message in messages:
            if size >= MOST_BYTES:
                waits, upto = _Waits(), events[-1].index
                break
            size += message.size * 4 // 3
            try:
                events.append(event_of(message, self._body(message, head), now, live=live))
            except _Waits as error:
                if message.num < head.snapshot:  # a snapshot stands for it
                    continue
                if not events:
                    raise
                waits, upto = error, events[-1].index
                break
        if refusal := self._journal.refusal():
            raise JournalError(refusal)
        cut = head.cut_for("latest" if kept.latest else "all")
        given = self._followed.give(kept.name, kept.handlers, events, upto, cut=cut, latest=kept.latest)
        self._untold.queued += given.queued
        self._untold.endings += given.endings
        if given.queued:
            _log.info(
                "fleet.followed",
                event_name=kept.name,
                messages=len(given.queued),
                num=given.queued[-1][0].index,
                handlers=sorted({name for _, names in given.queued for name in names}),
            )
        if waits:
            raise waits

    def _tell_given(self) -> None:
        """Say what was queued, once all is: who catches up handles it together, and reloads nginx once."""
        given, self._untold = self._untold, Given()
        if given.queued or given.endings:
            self._given(given)

    def _body(self, message: Envelope, head: Head) -> bytes:
        """The payload of a message, wherever it lies. Raises _Waits if it is not there."""
        if message.body is not None:
            return message.body
        try:
            body = self._reader().payload(message)
        except BadDocument as error:
            raise _Waits(f"message {message.num}: {error}") from error
        if body is None:
            raise _Waits(
                f"the payload of message {message.num} is missing: if that persists, publish what replaces"
                f" it with `agentd publish {message.name} --snapshot`"
            )
        self._witness.read(message.name, head, (), {message.sha256 or "": body})
        return body

"""Follows the log of all kept names, in two threads: one polls the heads, the other reads and queues.

The heads say which names have news (`heads_poll`); each name then reads its own messages (`followed_name`).
This module owns the threads, the connection, and what happens while Consul cannot be reached.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import structlog

from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.errors import AgentdError, ConsulError, ConsulRefused
from agentd.fleet.followed_freeze import FollowedFreeze
from agentd.fleet.followed_name import FollowedName
from agentd.fleet.gate import Gate
from agentd.fleet.heads_poll import Heads
from agentd.fleet.kept_name import Kept, NameStatus
from agentd.fleet.keys import Keys
from agentd.fleet.name_reader import Library, NameReader
from agentd.fleet.rights import rule
from agentd.fleet.witness import Witness
from agentd.heartbeat import Heartbeat
from agentd.journal.followed import Given
from agentd.journal.journal import Journal
from agentd.watch.poller import PollerStatus

_GRACE: Final = 90.0  # seconds that one turn may take
_IDLE: Final = 5.0  # seconds between two turns without news
_SOON: Final = Backoff(0.5, 10.0)
_ROOM: Final = 0.2  # seconds until the journal may have room again
_LIVE: Final = 3 * _IDLE  # seconds between two reads of the heads by key that still count as following

_log = structlog.get_logger()


class Poll(Protocol):
    """Polls the heads; `HeadsPoll` is one."""

    @property
    def status(self) -> PollerStatus:
        """The state of the blocking query."""
        ...

    @property
    def too_large(self) -> bool:
        """Whether there is too much below the prefix to read the answer."""
        ...

    def start(self) -> None:
        """Start the thread."""
        ...

    def close(self) -> None:
        """End the thread, without waiting for it."""
        ...


def read_prefixes(keys: Keys) -> tuple[str, ...]:
    """The prefixes of the keys that a node reads to follow the log."""
    return keys.names, keys.every_message, keys.bodies


def _event_of(error: Exception) -> str:
    if isinstance(error, ConsulRefused):
        return "fleet.not_permitted"
    return "fleet.unreachable" if isinstance(error, ConsulError) else "fleet.not_followed"


class Follower:
    """The two threads, and the state of every kept name.

    Args:
        names: the kept names.
        keys: the fleet's keys.
        node: returns this node's name in the fleet, which message filters match.
        journal: stores the positions and takes the messages.
        library: opens a connection to the log; called again after an error.
        poll: makes the poll of the heads, given the function to call with each answer.
        gate: what this node believes.
        freeze: the freeze of the fleet, which holds names back.
        given: called with what was queued.
        refused: called with the name and the reason of each message that is not believed.
        witness: gets every head, and every message before it is queued.
        heartbeat: the heartbeat of the reading thread.
        clock: unix seconds.

    Attributes:
        trouble: why the log cannot be read at the moment; "" if it can be.
    """

    def __init__(  # noqa: PLR0913 (what it connects; all named at the one call)
        self,
        names: Sequence[Kept],
        keys: Keys,
        node: Callable[[], str],
        journal: Journal,
        library: Callable[[], Library],
        poll: Callable[[Callable[[Heads], None]], Poll],
        *,
        gate: Gate,
        freeze: FollowedFreeze,
        given: Callable[[Given], None],
        refused: Callable[[str, str], None],
        witness: Witness,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = unix_time,
    ) -> None:
        self.trouble = ""
        reader = partial(NameReader, keys=keys, node=node, library=self._open, clock=clock, gate=gate)
        self._freeze = freeze
        self._freezes = reader(freeze.name)
        self._names = [
            FollowedName(
                kept,
                reader(kept.name),
                journal,
                held=partial(freeze.holds, kept.name),
                given=given,
                refused=refused,
                witness=witness,
                clock=clock,
            )
            for kept in names
        ]
        self._all = (freeze.name, *(one.name for one in self._names))
        self._keys = keys
        self._rules = " ".join(rule("read", prefix) for prefix in read_prefixes(keys))
        self._new_library = library
        self._witness = witness
        self._heartbeat = heartbeat
        self._poll = poll(self._came)
        self._lock = threading.Lock()
        self._news: Heads | None = None  # what came since the last turn
        self._heads: Heads | None = None  # what the last turn worked on
        self._keyed = -_LIVE  # monotonic time at which the heads were last read by key
        self._failures = 0
        self._library: Library | None = None
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fleet follow", daemon=True)

    def join_log(self) -> None:
        """Record that the handlers follow their names, from now on if they did not before.

        Raises:
            JournalError: it cannot be recorded.
        """
        for one in self._names:
            one.join()

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
        """Wait for the reading thread to end; return whether it did."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def status(self) -> Mapping[str, NameStatus]:
        """How far this node has come, by name."""
        return {one.name: one.status for one in self._names}

    @property
    def too_large(self) -> bool:
        """Whether there is so much below the heads' prefix that they are read by key, every few seconds."""
        return self._poll.too_large

    def was_read(self, name: str) -> bool:
        """Whether the log of a name was read since the start, or Consul answered that it has none at all."""
        poll = self._poll.status
        empty = poll.held is not None and not poll.alarming and poll.error is None
        return empty or any(one.was_read for one in self._names if one.name == name)

    @property
    def poll(self) -> PollerStatus:
        """The state of the poll of the heads."""
        return self._poll.status

    # ------------------------------------------------------------------ the reading thread

    def _came(self, heads: Heads) -> None:
        """Take the current heads, on the poll's thread. They are live only if every unread answer was."""
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
        """Read what can be read now. Returns the seconds until the next turn, unless news comes first."""
        try:
            self._look()
            waits = self._advance(self._heads) if self._heads else []
        except Exception as error:  # noqa: BLE001 (the thread must survive any bug; it is reported)
            return self._fail(error)
        if self.trouble:
            _log.info("fleet.reachable")
            self.trouble = ""
        if any(waits):
            self._failures += 1
            return min(_SOON.delay(self._failures), _IDLE)
        self._failures = 0
        return _IDLE if all(one is None for one in waits) else _ROOM

    def _advance(self, heads: Heads) -> list[str | None]:
        """Read what is new; a freeze first, as it counts for all that was written before this node saw it."""
        raw = {name: heads.values.get(self._keys.head(name)) for name in self._all}
        waits = [self._freeze.advance(raw[self._freeze.name], self._freezes, self._witness)]
        return [*waits, *(one.advance(raw[one.name], live=heads.live) for one in self._names)]

    def _fail(self, error: Exception) -> float:
        self._leave_library()
        for one in self._names:
            one.fall_behind()
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
        """Take the poll's news. Without any: read the heads by key if the poll cannot, and report a loss."""
        with self._lock:
            news, self._news = self._news, None
        if news is not None:
            self._heads = news
        elif self._poll.too_large:
            now = time.monotonic()
            pairs = self._open().reader.kv.pairs(map(self._keys.head, self._all))
            live = now - self._keyed < _LIVE
            self._heads, self._keyed = Heads({key: one.value for key, one in pairs.items()}, live), now
        elif self._poll.status.alarming:  # an empty answer, which the poll does not trust: all may be lost
            for name in self._all:
                self._witness.saw(name, None)

    def _open(self) -> Library:
        self._library = self._library or self._new_library()
        return self._library

    def _leave_library(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            library.close()

"""Writes the events that this node hears to the log, so that they reach every node of the fleet.

The dispatcher queues events of kept names for the relay instead of for their handlers. An entry ends once the
log has a message with the event's ID, whoever wrote it; after a kill the entries are still in the journal.
The `backlog` knows what waits, `pace` when to write, and `log` how. Owns the thread, and what happens while
the log is out of reach.

While the log cannot be reached or written, events go to their handlers provisionally. They still wait for the
log, whose order applies in the end.

Events that were in Consul's ring before the journal began are dropped, since their age is unknown.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

import structlog

from agentd.errors import (
    AgentdError,
    ConsulError,
    ConsulLimited,
    ConsulRefused,
    Contended,
    FleetError,
    JournalError,
    LogLost,
)
from agentd.fleet.backlog import Backlog, Mailbox
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Keep
from agentd.fleet.held import Held
from agentd.fleet.log import Log
from agentd.fleet.pace import Pace
from agentd.heartbeat import Heartbeat
from agentd.watch.changes import Event

PATIENCE: Final = 2.0
"""Seconds for which the log may be out of reach before events are applied provisionally."""
SECOND_LOOK: Final = 3.0
"""Seconds after which a log that seems to be lost is read a second time."""
_PAUSE: Final = 30.0  # seconds after which the journal is looked into although nobody asked for it
_FAILED: Final = 1.0
_GRACE: Final = 90.0  # seconds that one turn may take: three requests, and room to spare

_log = structlog.get_logger()


class Store(Protocol):
    """The part of this node's copy of the log that the relay needs (`memory.Memory`)."""

    def held(self, name: str) -> Held | None:
        """The copy of a name's log; None if there is none."""
        ...

    def body(self, sha256: str) -> bytes | None:
        """The body with that digest; None if it is not stored."""
        ...

    def wrote(self, name: str, keep: Keep, messages: Sequence[Envelope]) -> None:
        """Store messages that this node has written, before it reads them back."""
        ...


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The state of the relay; replaced as a whole, so any thread may read it.

    Attributes:
        waiting: events that are not known to be in the log.
        provisional: how many of them were given to their handlers provisionally.
        relayed: events that this node has written since its start.
        collisions: writes since then that failed because another node wrote at the same moment.
        trouble: why the log cannot be read or written now, or None.
        spoilt: name -> why its log cannot be used.
    """

    waiting: int = 0
    provisional: int = 0
    relayed: int = 0
    collisions: int = 0
    trouble: str | None = None
    spoilt: Mapping[str, str] = field(default_factory=dict)


class Relay:
    """Writes the events that this node hears to the log, in its own thread.

    Args:
        journal: has the events that were heard.
        log: the fleet's log; used by the relay's thread alone.
        memory: this node's copy of the log.
        provisionally: queues an event for its handlers provisionally; a second call has no effect.
        keep: the kept names, and what is kept of each.
        node: returns this node's name in the fleet.
        pace: decides when to write.
        rules: the ACL rules that the token needs, for messages.
        holds: whether events of that name must not be applied provisionally now.
        heartbeat: the thread's heartbeat.
        timer: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 (what it stands between, and what a test may replace)
        self,
        journal: Mailbox,
        log: Log,
        memory: Store,
        provisionally: Callable[[Event], object],
        *,
        keep: Mapping[str, Keep],
        node: Callable[[], str],
        pace: Pace,
        rules: str = "",
        holds: Callable[[str], object] = lambda _name: False,
        heartbeat: Heartbeat | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = RelayStatus()
        self._backlog = Backlog(journal, keep, provisionally, timer)
        self._log = log
        self._memory = memory
        self._keep = dict(keep)
        self._node = node
        self._pace = pace
        self._rules = rules
        self._holds = holds
        self._heartbeat = heartbeat
        self._timer = timer
        self._suspects: deque[str] = deque()
        self._read: deque[tuple[str, Sequence[Envelope]]] = deque()
        self._spoilt: dict[str, str] = {}
        self._lost: float | None = None  # when the log was first asked in vain, by the timer
        self._reason = ""  # of the last time
        self._trouble: str | None = None  # as it was told
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="fleet relay", daemon=True)
        for name in self._keep:
            self.suspect(name)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look for newly heard events; any thread may call."""
        self._woken.set()

    def saw(self, name: str, messages: Sequence[Envelope]) -> None:
        """Take note of messages that were read from the log, in order; any thread may call."""
        self._read.append((name, messages))
        self._woken.set()

    def suspect(self, name: str) -> None:
        """Check whether the log of that name is lost or older than before; any thread may call."""
        self._suspects.append(name)
        self._woken.set()

    def stop(self) -> None:
        """End the thread after its turn; events that are not in the log by then stay in the journal."""
        self._stop.set()
        self._woken.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end, `timeout` seconds at most; return whether it did."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def run(self) -> None:
        """Take turns until `stop`; errors are logged, and the next turn tries again."""
        while not self._stop.is_set():
            try:
                wait = self.turn()
            except Exception as error:  # noqa: BLE001 (the loop must survive any bug)
                trace = {} if isinstance(error, AgentdError) else {"exc_info": error}
                _log.warning("fleet.relay_failed", error=_text(error), retry_in=_FAILED, **trace)
                wait = _FAILED
            self._woken.wait(wait)
            self._woken.clear()

    def turn(self) -> float:
        """Do what is due now. Returns the seconds until more is due, unless news comes first."""
        if self.look() <= 0.0:
            self._work()
        return self._rest()

    def look(self) -> float:
        """Take over what was heard and read. Returns the seconds until a request to Consul is due."""
        if self._heartbeat is not None:
            self._heartbeat.beat(_GRACE)
        self._learn()
        self._backlog.take(self._log.find)
        self._line_up()
        return max(0.0, self._pace.due - self._timer())

    def _rest(self) -> float:
        self._give()
        self._backlog.shed(self._owed() if self._lost is not None else ())
        self._line_up()
        waiting = self._backlog.waiting
        self.status = replace(
            self.status,
            waiting=waiting,
            provisional=min(
                self._backlog.provisional, waiting
            ),  # the journal may have ended some to make room
            trouble=self._trouble,
            spoilt=dict(self._spoilt),
        )
        now = self._timer()
        until = min(self._pace.due, now + _PAUSE)
        if self._lost is not None and self._trouble is None:
            until = min(until, self._lost + PATIENCE)
        return max(0.0, until - now)

    # ------------------------------------------------------------------ what was heard and read

    def _learn(self) -> None:
        """Take over what the follower has read, and end the waiting events that are among it."""
        while self._suspects:
            self._pace.look(self._suspects.popleft(), self._timer())
        read: dict[str, dict[str, int]] = {}
        while self._read:
            name, messages = self._read.popleft()
            self._log.saw(name, messages)
            read.setdefault(name, {}).update((one.id, one.num) for one in messages)
        for name, known in read.items():
            self._backlog.settle(name, known)
            self._line_up()
            self._note_writer(name)

    def _note_writer(self, name: str) -> None:
        """Leave a backlog to the node that is working on it."""
        ours = self._log.relayed_by(name) == self._node()
        self._pace.newest(name, ours=ours)
        if not ours and self._backlog.is_long(name):
            self._pace.leave(name, self._timer(), self._backlog.done(name))

    def _line_up(self) -> None:
        """Tell the pace which event of each name has waited longest."""
        now = self._timer()
        for name in self._keep:
            self._pace.waits(name, self._backlog.first(name), now)

    # ------------------------------------------------------------------ to the log

    def _work(self) -> None:
        """Do what is due for each name; trouble with one name does not hold up the others."""
        for name in self._keep:
            began = self._timer()
            try:
                if self._pace.looks(name, began):
                    self._restore(name)
                if self._pace.ripe(name, began) is not None:
                    self._write(name)
            except LogLost:
                self._pace.look(name, began)
            except Contended:
                self.status = replace(self.status, collisions=self.status.collisions + 1)
                now = self._timer()
                self._pace.collided(now, now - began)
                self._note_writer(name)
                return
            except FleetError as error:
                self._spoil(name, error)
            except ConsulError as error:
                self._fail(error, began)
                return

    def _restore(self, name: str) -> None:
        """Write back what the log has lost, from this node's copy."""
        held = self._held(name)
        if held is None:  # without a copy, a lost log is simply started over
            self._log.resume(name, None)
        else:
            pause = partial(self._stop.wait, SECOND_LOOK)
            again = partial(self._held, name)
            count = self._log.write_back(name, held, body=self._body, pause=pause, again=again)
            self._found(name, self._timer())
            if count:
                _log.warning("fleet.written_back", event_name=name, messages=count)
        self._pace.looked(name)

    def _held(self, name: str) -> Held | None:
        with suppress(JournalError):  # `Holder` reports it, and other nodes write back
            return self._memory.held(name)
        return None

    def _body(self, sha256: str) -> bytes | None:
        with suppress(JournalError):
            return self._memory.body(sha256)
        return None

    def _write(self, name: str) -> None:
        if not self._pace.leads(name):
            self._look_first(name)
        began = self._timer()
        ripe = self._pace.ripe(name, began)
        drafts = [] if ripe is None else self._backlog.drafts(name, self._node())
        if not drafts:
            return
        due = self._backlog.heard_until(name, ripe or 0.0)
        landed = self._log.append(
            name, drafts, keep=self._keep[name], due=due, wrote=partial(self._hold, name)
        )
        self._found(name, began)
        written = {event: place.num for event, place in landed.items() if place.written}
        if written:
            now = self._timer()
            self._pace.wrote(name, now, now - began)
            self.status = replace(self.status, relayed=self.status.relayed + len(written))
            _log.info("fleet.relayed", event_name=name, events=len(written), num=max(written.values()))
        self._backlog.land(name, landed)
        self._pace.newest(name, ours=self._log.relayed_by(name) == self._node())

    def _look_first(self, name: str) -> None:
        """Check whether the log can be reached, and whether another node is working on the backlog."""
        began = self._timer()
        is_behind = self._log.is_behind(name)
        self._found(name, began)
        if is_behind and self._backlog.is_long(name):  # the follower will bring what the other node wrote
            self._pace.leave(name, self._timer(), self._backlog.done(name))

    def _hold(self, name: str, messages: Sequence[Envelope]) -> None:
        """Store what was written before its entries end: only this node could write it back yet."""
        with suppress(JournalError):  # `Holder` reports it
            self._memory.wrote(name, self._keep[name], messages)

    # ------------------------------------------------------------------ when the log is out of reach

    def _found(self, name: str, began: float) -> None:
        """Note that the log of this name answered; `began` is when it was asked, by the timer."""
        now = self._timer()
        self._pace.answered(now, now - began)
        self._lost = None
        if self._trouble is not None or self._spoilt.pop(name, None) is not None:
            _log.info("fleet.reachable", event_name=name, waiting=self._backlog.held)
        if self._trouble is not None:
            self._trouble = None
            for one in self._keep:  # Consul may have been rebuilt or restored meanwhile
                self.suspect(one)

    def _fail(self, error: ConsulError, began: float) -> None:
        """Note that the log did not answer, or refused; `began` is when it was asked, by the timer."""
        now = self._timer()
        if self._lost is None:
            self._lost = began
        if isinstance(error, ConsulRefused):
            self._pace.refused(now)
            self._reason = f"{error}; the relay needs {self._rules}"
            self._tell("fleet.not_permitted", self._reason)
            return
        self._pace.failed(now, error.retry_after if isinstance(error, ConsulLimited) else None)
        self._reason = str(error)

    def _tell(self, event: str, reason: str) -> None:
        if self._trouble is None:
            _log.warning(event, reason=reason, waiting=self._backlog.held)
        self._trouble = reason

    def _spoil(self, name: str, error: FleetError) -> None:
        """Note that the log of this name cannot be used; the other names continue."""
        self._pace.put_off(name, self._timer())
        if self._spoilt.get(name) != str(error):
            self._spoilt[name] = str(error)
            _log.warning("fleet.unusable", event_name=name, reason=str(error))

    def _give(self) -> None:
        """Have events applied provisionally, if the log has been out of reach for too long."""
        if self._lost is not None and self._timer() - self._lost >= PATIENCE:
            self._tell("fleet.unreachable", self._reason)
        names = self._spoilt if self._trouble is None else self._keep
        self._backlog.give(self._owed() & names.keys())

    def _owed(self) -> set[str]:
        """The names whose events are to be applied provisionally while the log is out of reach."""
        return {name for name in self._keep if not self._holds(name)}


def _text(error: Exception) -> str:
    """The text of an error, for the log: that of a foreign error may contain a payload, so only its type."""
    return str(error) if isinstance(error, AgentdError) else type(error).__name__

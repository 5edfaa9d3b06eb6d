"""What a handler had of the fleet's log, from this node's own copy: for what a boot took, without Consul.

Reads only; owns which message it is: the one in force if it is still there, else the newest that the handler
was given. Each is verified and opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import structlog

from agentd.clock import unix_time
from agentd.errors import BadKey, JournalError, NoFleetKey, PermanentError, Untrusted
from agentd.fleet.envelope import Envelope
from agentd.fleet.gate import Gate
from agentd.fleet.kept_name import Kept
from agentd.fleet.memory import Memory
from agentd.fleet.receipt import event_of
from agentd.journal.followed import Followed
from agentd.journal.journal import Journal
from agentd.journal.numbers import Numbers
from agentd.journal.position import Position
from agentd.watch.changes import Event

_log = structlog.get_logger()


class Recall:
    """Called from any thread.

    Args:
        kept: the kept names.
        memory: this node's copy of the log.
        gate: what this node believes.
        journal: says what was given, and what is in force.
        clock: unix seconds.
    """

    def __init__(
        self,
        kept: Mapping[str, Kept],
        memory: Memory,
        gate: Gate,
        journal: Journal,
        clock: Callable[[], float] = unix_time,
    ) -> None:
        self._kept = kept
        self._memory = memory
        self._gate = gate
        self._journal = journal
        self._clock = clock

    def __call__(self, handler: str) -> tuple[list[Event], bool]:
        """The messages, opened, at most one of each name of which only the newest counts.

        Returns:
            The messages, and whether everything in force is among them, or newer. Why not is logged.

        Raises:
            JournalError: the journal cannot be read.
        """
        in_force = Numbers(self._journal.database).committed(handler)
        positions = Followed(self._journal).positions()
        found: list[Event] = []
        for one in self._names(handler):
            num = in_force.get(one.name, 0)
            if event := self._event(one.name, num, positions.get((handler, one.name), Position())):
                found.append(event)
        newest = {event.name: event.index for event in found}
        return found, all(newest.get(one, 0) >= num for one, num in in_force.items() if self._is_latest(one))

    def _names(self, handler: str) -> Iterator[Kept]:
        return (one for one in self._kept.values() if one.latest and handler in one.handlers)

    def _is_latest(self, name: str) -> bool:
        return name in self._kept and self._kept[name].latest

    def _event(self, name: str, num: int, at: Position) -> Event | None:
        why = "this node's copy of the log does not have it"
        try:
            for message in self._candidates(name, num, at):
                try:
                    return self._opened(self._gate.admit(message))
                except (Untrusted, PermanentError) as error:
                    why = str(error)
        except (JournalError, NoFleetKey, BadKey) as error:
            why = str(error)
        if num or at.num:
            _log.warning("fleet.not_recalled", event_name=name, num=num or at.num, reason=why)
        return None

    def _candidates(self, name: str, num: int, at: Position) -> Iterator[Envelope]:
        held = self._memory.held(name)
        given = [one for one in held.messages if one.num <= at.num] if held else []
        yield from (one for one in given if one.num == num)
        yield from (one for one in reversed(given) if one.num != num and one.role == "all")

    def _opened(self, message: Envelope) -> Event:
        """Raises NoFleetKey or BadKey if it cannot be opened, PermanentError if it has no payload here."""
        body = message.body or (self._memory.body(message.sha256) if message.sha256 else None) or b""
        if len(body) != message.size and not message.is_sealed:
            raise PermanentError("its payload is stored apart, and this node has no copy of it")
        return self._gate.opened(event_of(message, body, self._clock(), live=False))

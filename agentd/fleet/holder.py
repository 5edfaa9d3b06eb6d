"""Holds what the follower reads of the log, in case Consul loses it, and has the relay look when it seems so.

Between three: the follower says what it reads, the memory keeps it, and the relay writes back. If the memory
cannot be used, the log is followed without it; what could not be held is read again later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from agentd.errors import JournalError
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head
from agentd.fleet.held import listing
from agentd.fleet.memory import Memory
from agentd.fleet.relay import Relay

_PAUSE: Final = 60.0  # seconds after a failure until all is read again

_log = structlog.get_logger()


class Holder:
    """Called from the follower's thread.

    Args:
        memory: what this node holds.
        relay: writes back; None if this node writes nothing.
        timer: monotonic seconds.

    Attributes:
        trouble: why nothing can be held now, "" if it can.
    """

    def __init__(
        self, memory: Memory, relay: Relay | None, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self.trouble = ""
        self._memory = memory
        self._relay = relay
        self._timer = timer
        self._retry_at = -math.inf
        self._whole = {name for name in memory.names() if memory.holds(name)}

    def saw(self, name: str, head: Head | None) -> None:
        """The head of a name as Consul has it; None if there is none, or none that can be used."""
        self._guarded(lambda: self._suspect(name, head))

    def lacks(self, name: str) -> bool:
        """Whether its whole log is to be read: what was read of it before is not held, or not all of it."""
        return name not in self._whole and self._timer() >= self._retry_at

    def unread(self, name: str, head: Head, numbers: Callable[[], Iterable[int]]) -> list[int]:
        """The numbers of messages that the log has and this node never read; see `Memory.unread`."""
        found: list[int] = []
        if name in self._whole:
            self._guarded(lambda: found.extend(self._memory.unread(name, head, numbers)))
        return found

    def has_all(self, name: str) -> None:
        """The whole log of the name was read."""
        if self._timer() >= self._retry_at:
            self._whole.add(name)
            self.trouble = ""

    def read(
        self, name: str, head: Head, messages: Sequence[Envelope], bodies: Mapping[str, bytes] | None = None
    ) -> None:
        """These messages were read, and are believed; or only bodies of some that were."""
        if messages and messages[-1].num != head.newest:  # not to the end yet
            head = listing(head, [one.num for one in messages], None)
        if messages or bodies:
            self._guarded(lambda: self._memory.remember(name, head, messages, bodies))
        if messages and self._relay:
            self._relay.saw(name, messages)

    def _suspect(self, name: str, head: Head | None) -> None:
        if head is not None:
            self._memory.note(name, head)
        if self._relay and self._memory.seems_lost(name, head):
            self._relay.suspect(name)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except JournalError as error:
            if str(error) != self.trouble:
                _log.warning("fleet.not_held", reason=str(error))
            self.trouble = str(error)
            self._whole.clear()
            self._retry_at = self._timer() + _PAUSE

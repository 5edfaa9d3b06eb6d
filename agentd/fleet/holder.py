"""Saves what the follower reads of the log, in case Consul loses it, and alerts the relay to such a loss.

Connects three parts: the follower reports what it reads, the memory stores it, and the relay writes it back.
If the memory is unusable, the follower carries on without it, and later rereads what could not be stored.
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

_PAUSE: Final = 60.0  # seconds from a failure until the whole log is reread

_log = structlog.get_logger()


class Holder:
    """Called from the follower's thread.

    Args:
        memory: where messages are stored.
        relay: writes back what Consul lost; None on a node that does not relay.
        timer: monotonic seconds.

    Attributes:
        trouble: why nothing can be stored at the moment; "" if it can be.
    """

    def __init__(
        self, memory: Memory, relay: Relay | None, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self.trouble = ""
        self._memory = memory
        self._relay = relay
        self._timer = timer
        self._retry_at = -math.inf
        self._mended: dict[str, int] = {}  # of the last head of a name
        self._whole = {name for name in memory.names() if memory.holds(name)}

    def saw(self, name: str, head: Head | None) -> None:
        """Report a name's head as Consul has it; None if it is missing or unusable."""
        self._guarded(lambda: self._suspect(name, head))

    def highest(self, name: str) -> int:
        """The highest number of a message that was ever stored; 0 if it is not known."""
        return self._memory.highest(name)

    def pruned(self, name: str) -> int:
        """See `Witness`; 0 as well while that cannot be read."""
        found: list[int] = []
        self._guarded(lambda: found.append(self._memory.pruned(name)))
        return found[0] if found else 0

    def lacks(self, name: str) -> bool:
        """Whether to read the whole log of the name, since this node does not hold all it once read of it."""
        return name not in self._whole and self._timer() >= self._retry_at

    def unread(self, name: str, head: Head, numbers: Iterable[int]) -> list[int] | None:
        """Which of these numbers this node never read; see `Memory.unread`. None if unknown at the moment."""
        found: list[int] = []
        if name in self._whole:
            self._guarded(lambda: found.extend(self._memory.unread(name, head, numbers)))
        return found if name in self._whole else None

    def has_all(self, name: str) -> None:
        """Report that the whole log of the name was read."""
        if self._timer() >= self._retry_at:
            self._whole.add(name)
            self.trouble = ""

    def read(
        self, name: str, head: Head, messages: Sequence[Envelope], bodies: Mapping[str, bytes] | None = None
    ) -> None:
        """Store messages that were read and verified, or the bodies of some that were."""
        if (
            messages and messages[-1].num != head.newest
        ):  # not read to the end yet: its marks are not verified
            head = listing(Head(head.keep), [one.num for one in messages], {})
        if messages or bodies:
            self._guarded(lambda: self._remember(name, head, messages, bodies))
        if messages and self._relay:
            self._relay.saw(name, messages)

    def _suspect(self, name: str, head: Head | None) -> None:
        is_mended = head is not None and head.mended != self._mended.get(name, 0)
        if head is not None:
            self._mended[name] = head.mended
            self._memory.note(name, head)
        if self._relay and (is_mended or self._memory.seems_lost(name, head)):
            self._relay.suspect(name)

    def _remember(
        self, name: str, head: Head, messages: Sequence[Envelope], bodies: Mapping[str, bytes] | None
    ) -> None:
        if self._memory.remember(name, head, messages, bodies) and self._relay:
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

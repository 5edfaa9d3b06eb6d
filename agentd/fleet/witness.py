"""Who is shown what the follower reads of the log, so that the node has a copy of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head


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

    def highest(self, name: str) -> int:
        """The highest number of a message that this node ever believed; 0 if it is not known."""
        ...

    def pruned(self, name: str) -> int:
        """The number up to which messages are known to have been pruned or forgotten; 0 if none were."""
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

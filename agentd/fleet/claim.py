"""What the two kinds of lock have in common: one look at a time at whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from agentd.fleet.store import Behavior

POLL: Final = 1.0
"""Seconds between two attempts at a key that is free and cannot be had yet (lock delay)."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one attempt found.

    Attributes:
        taken: the lock is ours.
        index: the next attempt blocks until there is a newer one.
        holders: sessions that have it.
        delayed: nobody has it, and Consul still bars it after a holder's death.
    """

    taken: bool = False
    index: int = 0
    holders: tuple[str, ...] = ()
    delayed: bool = False


class Claim(Protocol):
    """A kind of lock. Every method is one or a few requests; each raises ConsulError."""

    behavior: Behavior

    def guard(self, session: str) -> str:
        """The key that Consul keeps for our session for as long as the lock is ours: fences check it."""

    def enter(self, session: str) -> None:
        """Join those who want it."""

    def attempt(self, session: str, index: int, wait: float) -> Look:
        """Look once, with an index wait for news first, and take the lock if it can be had.

        Raises:
            LockNotAcquired: the key serves something else, so that waiting does not help.
        """

    def held(self, session: str, index: int, wait: float) -> Look:
        """Look once whether it is still ours."""

    def leave(self, session: str) -> bool:
        """Give it back; False if it was not ours any more."""

    def tidy(self) -> None:
        """Remove what nobody uses any more from the store."""

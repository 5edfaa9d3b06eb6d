"""What the two kinds of lock, mutex and semaphore, have in common: how to try for one and what that finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from agentd.locks.consul_store import Behavior

POLL: Final = 1.0
"""Seconds between two attempts at a key that is free but still barred by Consul (lock delay)."""


@dataclass(frozen=True, slots=True)
class LockState:
    """What one attempt found.

    Attributes:
        taken: whether the lock is ours.
        index: Consul's index; the next attempt blocks until there is a newer one.
        holders: the sessions that hold it.
        delayed: nobody holds it, but Consul still bars it because its last holder died.
    """

    taken: bool = False
    index: int = 0
    holders: tuple[str, ...] = ()
    delayed: bool = False


class Kind(Protocol):
    """A kind of lock. Every method makes one or a few requests, and raises ConsulError if they fail."""

    behavior: Behavior

    def guard(self, session: str) -> str:
        """The key that belongs to our session as long as the lock is ours; `fence` checks it."""

    def enter(self, session: str) -> None:
        """Join the contenders."""

    def attempt(self, session: str, index: int, wait: float) -> LockState:
        """Check once, waiting for news first if there is an index, and take the lock if it is free.

        Raises:
            LockNotAcquired: the key is used for something else, so waiting does not help.
        """

    def held(self, session: str, index: int, wait: float) -> LockState:
        """Check once whether it is still ours."""

    def leave(self, session: str) -> bool:
        """Release it; False if it was no longer ours."""

    def tidy(self) -> None:
        """Delete keys that nobody uses any more."""

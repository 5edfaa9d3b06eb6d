"""A lock with one holder: the key PREFIX/.lock belongs to the holder's session, as `consul lock` has it.

https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions/application-leader-election
"""

from __future__ import annotations

from typing import Final

from agentd.errors import LockNotAcquired
from agentd.fleet.claim import POLL, Look
from agentd.fleet.store import Behavior, Pair, Store

FLAGS: Final = 0x2DDCCBC058A50C18
"""What Consul's own client marks the key of a lock with, so that nobody takes it for something else."""


class Mutex:
    """A `Claim` on PREFIX/.lock; see there."""

    behavior: Behavior = "release"

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._key = f"{prefix}/.lock"
        self._delayed = False

    def guard(self, _session: str) -> str:
        """The lock itself."""
        return self._key

    def enter(self, session: str) -> None:
        """Do nothing: whoever waits for this kind of lock leaves no trace."""

    def attempt(self, session: str, index: int, wait: float) -> Look:
        """Take the key if no session has it."""
        # No write marks the end of the lock delay, so the wait for one is short.
        index, pair = self._read(index, min(wait, POLL) if self._delayed else wait)
        self._delayed = False
        if pair and pair.flags != FLAGS:
            raise LockNotAcquired(
                f"the key {self._key} is not a lock for one holder (flags {pair.flags:#x}):"
                " choose another prefix, or the -n that the others use"
            )
        if pair and pair.session:
            return Look(pair.session == session, index, (pair.session,))
        taken = self._store.acquire(self._key, session, FLAGS)
        self._delayed = not taken
        return Look(taken, index, delayed=not taken)

    def held(self, session: str, index: int, wait: float) -> Look:
        """Whether the key is our session's."""
        index, pair = self._read(index, wait)
        return Look(pair is not None and pair.session == session, index)

    def leave(self, session: str) -> bool:
        """Free the key."""
        return self._store.release(self._key, session, FLAGS)

    def tidy(self) -> None:
        """Delete the key unless someone took it, or wrote to it, meanwhile."""
        _, pair = self._read(0, 0.0)
        if pair and pair.flags == FLAGS and not pair.session:
            self._store.delete(self._key, pair.index)

    def _read(self, index: int, wait: float) -> tuple[int, Pair | None]:
        listing = self._store.read(self._key, recurse=False, index=index, wait=wait)
        return listing.index, listing.find(self._key)

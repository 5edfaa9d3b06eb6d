"""A lock with one holder: the key PREFIX/.lock belongs to the holder's session, as with `consul lock`.

https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions/application-leader-election
"""

from __future__ import annotations

from typing import Final

from agentd.errors import LockNotAcquired
from agentd.locks.consul_store import Behavior, ConsulStore, Pair
from agentd.locks.kind import POLL, LockState

FLAGS: Final = 0x2DDCCBC058A50C18
"""The flags by which Consul's own client recognizes the key of a lock."""


class Mutex:
    """The `Kind` of lock with one holder."""

    behavior: Behavior = "release"

    def __init__(self, store: ConsulStore, prefix: str) -> None:
        self._store = store
        self._key = f"{prefix}/.lock"
        self._delayed = False

    def guard(self, _session: str) -> str:
        """The lock itself."""
        return self._key

    def enter(self, session: str) -> None:
        """Do nothing: waiting for a mutex leaves no trace in Consul."""

    def attempt(self, session: str, index: int, wait: float) -> LockState:
        """Take the key if no session has it."""
        # Nothing is written when the lock delay ends, so a blocking query would not notice: wait briefly.
        index, pair = self._read(index, min(wait, POLL) if self._delayed else wait)
        self._delayed = False
        if pair and pair.flags != FLAGS:
            raise LockNotAcquired(
                f"the key {self._key} is not a lock for one holder (flags {pair.flags:#x}):"
                " choose another prefix, or the same -n as the others"
            )
        if pair and pair.session:
            return LockState(pair.session == session, index, (pair.session,))
        taken = self._store.acquire(self._key, session, FLAGS)
        self._delayed = not taken
        return LockState(taken, index, delayed=not taken)

    def held(self, session: str, index: int, wait: float) -> LockState:
        """Whether the key belongs to our session."""
        index, pair = self._read(index, wait)
        return LockState(pair is not None and pair.session == session, index)

    def leave(self, session: str) -> bool:
        """Release the key."""
        return self._store.release(self._key, session, FLAGS)

    def tidy(self) -> None:
        """Delete the key unless someone has acquired or changed it meanwhile."""
        _, pair = self._read(0, 0.0)
        if pair and pair.flags == FLAGS and not pair.session:
            self._store.delete(self._key, pair.index)

    def _read(self, index: int, wait: float) -> tuple[int, Pair | None]:
        listing = self._store.read(self._key, recurse=False, index=index, wait=wait)
        return listing.index, listing.find(self._key)

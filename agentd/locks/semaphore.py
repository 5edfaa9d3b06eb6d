"""A lock with several holders, stored the way `consul lock -n=N` stores it.

Each contender's session holds a key PREFIX/SESSION, which is deleted with the session. PREFIX/.lock lists the
holders; it belongs to no session and is only replaced by check-and-set. A holder whose own key is gone is
dead, and the next contender removes it from the list.
https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions/distributed-semaphore
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentd.errors import ConsulUnavailable, LockNotAcquired
from agentd.locks.consul_store import Behavior, ConsulStore, Listing, Pair
from agentd.locks.kind import LockState

FLAGS: Final = 0xE0F69A2BAA414DE0
"""The flags by which Consul's own client recognizes a semaphore's keys."""
_TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class _Roll:
    """The list of holders as one read found it; `index` is 0 if there is no list yet."""

    index: int
    limit: int
    holders: frozenset[str]


class Semaphore:
    """The `Kind` of lock with `limit` places."""

    behavior: Behavior = "delete"

    def __init__(self, store: ConsulStore, prefix: str, limit: int) -> None:
        self._store = store
        self._prefix = prefix
        self._key = f"{prefix}/.lock"
        self._limit = limit

    def guard(self, session: str) -> str:
        """The contender's own key: as long as it exists, nobody removes us from the list."""
        return f"{self._prefix}/{session}"

    def enter(self, session: str) -> None:
        """Create the contender's key."""
        if not self._store.acquire(self.guard(session), session, FLAGS):
            raise ConsulUnavailable(
                f"Consul does not let the session acquire its own key {self.guard(session)}"
            )

    def attempt(self, session: str, index: int, wait: float) -> LockState:
        """Add us to the holders if a place is free."""
        listing = self._read(index, wait)
        roll = self._roll(listing)
        if roll.limit != self._limit:
            raise LockNotAcquired(
                f"{self._key} is a lock for {roll.limit} holders, not {self._limit}: use -n {roll.limit}"
            )
        living = _living(roll, listing)
        if session in living:  # Consul's answer to an earlier attempt was lost
            return LockState(taken=True, index=listing.index)
        if len(living) >= self._limit:
            return LockState(index=listing.index, holders=tuple(sorted(living)))
        taken = self._write(roll, living | {session})
        # If someone was faster, the list has changed, so the next attempt does not block.
        return LockState(taken, listing.index, tuple(sorted(living)))

    def held(self, session: str, index: int, wait: float) -> LockState:
        """Whether we are on the list, and our own key still exists."""
        listing = self._read(index, wait)
        try:
            return LockState(session in _living(self._roll(listing), listing), listing.index)
        except LockNotAcquired:  # someone wrote something else over it
            return LockState(index=listing.index)

    def leave(self, session: str) -> bool:
        """Remove us from the list, then delete our own key."""
        left = self._strike(session)
        self._store.delete(self.guard(session))
        return left

    def tidy(self) -> None:
        """Delete the list if none of its holders is alive."""
        listing = self._read(0, 0.0)
        roll = self._roll(listing)
        if roll.index and not _living(roll, listing):
            self._store.delete(self._key, roll.index)

    def _strike(self, session: str) -> bool:
        for _ in range(_TRIES):
            listing = self._read(0, 0.0)
            try:
                roll = self._roll(listing)
            except LockNotAcquired:
                return False
            if session not in _living(roll, listing):
                return False
            if self._write(roll, roll.holders - {session}):
                return True
        raise ConsulUnavailable(f"{self._key} changes too often to be written: try again")

    def _read(self, index: int, wait: float) -> Listing:
        return self._store.read(f"{self._prefix}/", recurse=True, index=index, wait=wait)

    def _roll(self, listing: Listing) -> _Roll:
        """The list as it is now.

        Raises:
            LockNotAcquired: the key contains something else.
        """
        pair = listing.find(self._key)
        if pair is None:
            return _Roll(0, self._limit, frozenset())
        if pair.flags != FLAGS:
            raise LockNotAcquired(
                f"the key {self._key} is not a lock for several holders (flags {pair.flags:#x}):"
                " choose another prefix, or the same -n as the others"
            )
        return _parse(pair) if pair.value else _Roll(pair.index, self._limit, frozenset())

    def _write(self, roll: _Roll, holders: Iterable[str]) -> bool:
        content = {"Limit": roll.limit, "Holders": dict.fromkeys(sorted(holders), True)}
        value = json.dumps(content, separators=(",", ":")).encode()
        return self._store.replace(self._key, value, FLAGS, roll.index)


def _parse(pair: Pair) -> _Roll:
    try:
        content = json.loads(pair.value)
        return _Roll(pair.index, int(content["Limit"]), frozenset(content["Holders"] or ()))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LockNotAcquired(
            f"the key {pair.key} does not contain a list of holders: delete it, or choose another prefix"
        ) from error


def _living(roll: _Roll, listing: Listing) -> frozenset[str]:
    return roll.holders & {pair.session for pair in listing.pairs if pair.session}

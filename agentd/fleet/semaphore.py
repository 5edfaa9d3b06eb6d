"""A lock with several holders, kept as `consul lock -n=N` keeps it.

Each contender's session holds a key PREFIX/SESSION that is deleted with it. PREFIX/.lock lists the holders;
it belongs to no session and is only replaced as it was read. A holder whose own key is gone is dead, and
whoever comes next strikes it off the list.
https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions/distributed-semaphore
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentd.errors import ConsulUnavailable, LockNotAcquired
from agentd.fleet.claim import Look
from agentd.fleet.store import Behavior, Listing, Pair, Store

FLAGS: Final = 0xE0F69A2BAA414DE0
"""What Consul's own client marks a semaphore's keys with."""
_TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class _Roll:
    """The list of holders as one read found it; `index` is 0 if there is none yet."""

    index: int
    limit: int
    holders: frozenset[str]


class Semaphore:
    """A `Claim` for one of `limit` places; see there."""

    behavior: Behavior = "delete"

    def __init__(self, store: Store, prefix: str, limit: int) -> None:
        self._store = store
        self._prefix = prefix
        self._key = f"{prefix}/.lock"
        self._limit = limit

    def guard(self, session: str) -> str:
        """The contender's own key: while it stands, nobody strikes us off."""
        return f"{self._prefix}/{session}"

    def enter(self, session: str) -> None:
        """Make the contender's key."""
        if not self._store.acquire(self.guard(session), session, FLAGS):
            raise ConsulUnavailable(f"Consul does not give the key {self.guard(session)} to its own session")

    def attempt(self, session: str, index: int, wait: float) -> Look:
        """Add us to the holders if there is a place left."""
        listing = self._read(index, wait)
        roll = self._roll(listing)
        if roll.limit != self._limit:
            raise LockNotAcquired(
                f"{self._key} is shared by {roll.limit} holders, not {self._limit}: use -n {roll.limit}"
            )
        living = _living(roll, listing)
        if session in living:  # an answer of Consul's was lost on its way to us
            return Look(taken=True, index=listing.index)
        if len(living) >= self._limit:
            return Look(index=listing.index, holders=tuple(sorted(living)))
        taken = self._write(roll, living | {session})
        # Not taken: someone was faster, and that is news, so the next look does not block.
        return Look(taken, listing.index, tuple(sorted(living)))

    def held(self, session: str, index: int, wait: float) -> Look:
        """Whether we are on the list, and our own key stands."""
        listing = self._read(index, wait)
        try:
            return Look(session in _living(self._roll(listing), listing), listing.index)
        except LockNotAcquired:  # someone wrote something else over it
            return Look(index=listing.index)

    def leave(self, session: str) -> bool:
        """Strike us off, then delete our own key."""
        left = self._strike(session)
        self._store.delete(self.guard(session))
        return left

    def tidy(self) -> None:
        """Delete the list if no living holder is on it."""
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
        raise ConsulUnavailable(f"{self._key} changes too fast to be written to")

    def _read(self, index: int, wait: float) -> Listing:
        return self._store.read(f"{self._prefix}/", recurse=True, index=index, wait=wait)

    def _roll(self, listing: Listing) -> _Roll:
        """The list as it stands.

        Raises:
            LockNotAcquired: the key holds something else.
        """
        pair = listing.find(self._key)
        if pair is None:
            return _Roll(0, self._limit, frozenset())
        if pair.flags != FLAGS:
            raise LockNotAcquired(
                f"the key {self._key} is not a lock for several holders (flags {pair.flags:#x}):"
                " choose another prefix, or the -n that the others use"
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
    except (ValueError, TypeError, KeyError) as error:
        raise LockNotAcquired(
            f"the key {pair.key} holds no list of holders: delete it, or choose another prefix"
        ) from error


def _living(roll: _Roll, listing: Listing) -> frozenset[str]:
    return roll.holders & {pair.session for pair in listing.pairs if pair.session}

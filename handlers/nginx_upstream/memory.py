"""Who is right about one setting of a server: what the load balancer lists, or what was seen there before.

A load balancer is right, since operators change it by hand, except about what it has merely lost: a reload
makes it begin again with a file that may be older than what was seen, and what could not be set there yet is
listed as it was. Values only; the handler commits what comes out.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Seen(Generic[T]):
    """Of one server.

    Attributes:
        wish: what operators want.
        listed: the values that say nothing new when they are listed: the last one listed, and what was set.
        learnt: the generation that was current when the wish was learnt; later ones contain it.
        before: the wish before that.
    """

    wish: T
    listed: frozenset[Hashable]
    learnt: int
    before: T


class Memory(Generic[T]):
    """What operators want of one setting, such as whether it is down, of each server of an upstream."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen[T]] = {}

    def __contains__(self, address: str) -> bool:
        return address in self._seen

    def wish(self, address: str, listed: Hashable, says: T, committed: T, loaded: int | None) -> T:
        """What operators want of this server.

        Args:
            address: of the server.
            listed: the value that the load balancer lists.
            says: the wish that this value would express if an operator had set it.
            committed: the wish in the current generation.
            loaded: the generation that the load balancer has read since the last time; None if it has not.
        """
        seen = self._seen.get(address)
        if seen is None:
            return says
        if listed in seen.listed:
            return seen.wish
        if loaded is not None and (says == committed or (seen.learnt >= loaded and says == seen.before)):
            return seen.wish  # it comes from the file that was read
        return says

    def last(self, address: str, default: T) -> T:
        """The last wish known."""
        seen = self._seen.get(address)
        return default if seen is None else seen.wish

    def remember(self, address: str, wish: T, listed: Hashable, committed: T, generation: int) -> None:
        """The load balancer lists this, which means that operators want `wish`."""
        seen = self._seen.get(address)
        if seen is not None and seen.wish == wish:
            self._seen[address] = _Seen(wish, frozenset((listed,)), seen.learnt, seen.before)
        else:
            before = committed if seen is None else seen.wish
            self._seen[address] = _Seen(wish, frozenset((listed,)), generation, before)

    def set(self, address: str, value: Hashable, *, verified: bool) -> None:
        """The value was set; unless that is verified, the one listed before may still be there."""
        seen = self._seen.get(address)
        if seen is not None:
            listed = frozenset((value,)) if verified else seen.listed | {value}
            self._seen[address] = _Seen(seen.wish, listed, seen.learnt, seen.before)

    def forget(self, known: frozenset[str]) -> None:
        """Forget all other servers."""
        self._seen = {address: seen for address, seen in self._seen.items() if address in known}

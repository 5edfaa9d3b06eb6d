"""All load balancers of a service at once: look, change, verify, and undo where one of them fails.

Every balancer is looked at before any is changed, so that one that hangs stops the change before it began.
Each call is bounded by its own time-out, so all of it is. Knows the interface, and nothing of Consul.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, Protocol, TypeVar

from agentd.errors import BalancerError
from agentd.fleet.dynamic_upstream import Balancer, Peer, Wish

Outcome = Literal["waiting", "changed", "unchanged", "untouched", "undone", "failed"]
_MOST_AT_ONCE: Final = 128  # threads


class Interface(Protocol):
    """One upstream on one balancer, such as `DynamicUpstream`. All raises BalancerError, in bounded time."""

    @property
    def balancer(self) -> Balancer:
        """Which."""

    def peers(self) -> tuple[Peer, ...]:
        """List the servers."""

    def change(self, server: str, wish: Wish) -> None:
        """Ask for a change."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one balancer says of its servers, or why it does not."""

    balancer: Balancer
    peers: tuple[Peer, ...] = ()
    error: str = ""

    def find(self, server: str) -> Peer | None:
        """The server, if it is there."""
        return next((peer for peer in self.peers if peer.server == server), None)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one balancer.

    Attributes:
        outcome: changed and unchanged were verified by listing again; untouched was left alone since another
            failed; undone is as it was found.
        before: the server as it was found, None if it was not seen.
        after: as it was listed last.
        error: why it failed.
        asked: the change was sent, so that the balancer may have made it even if it failed.
        seconds: since the beginning.
    """

    balancer: Balancer
    outcome: Outcome = "waiting"
    before: Peer | None = None
    after: Peer | None = None
    error: str = ""
    asked: bool = False
    seconds: float = 0.0


Tell = Callable[[Result], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to one server.

    Attributes:
        server: as `check_server` spells it.
        wish: how it is to be.
        least_up: servers that must be left up on each balancer when one is taken down.
    """

    server: str
    wish: Wish
    least_up: int = 0


class Balancers:
    """The balancers of one upstream; for one thread.

    Args:
        interfaces: one a balancer.
        stop: once set, from any thread, no change is begun any more, and what was changed is undone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        interfaces: Sequence[Interface],
        stop: threading.Event | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interfaces = tuple(interfaces)
        self._stop = stop or threading.Event()
        self._clock = clock

    def look(self) -> list[Listing]:
        """List the servers on each, in the order of the balancers."""
        return self._at_once([partial(_listing, interface) for interface in self.interfaces])

    def change(self, change: Change, *, keep_going: bool = False, tell: Tell | None = None) -> list[Result]:
        """Change one server on all of them, or on none if one fails.

        Args:
            change: what.
            keep_going: change those that can be, and undo nothing.
            tell: called in this thread with each balancer's result as it comes; one may come again.

        Returns:
            One result a balancer, in their order. All is well if none failed and none is untouched.
        """
        began = self._clock()

        def told(result: Result) -> None:
            if tell is not None:
                tell(replace(result, seconds=self._clock() - began))

        results = [_judged(change, listing) for listing in self.look()]
        if any(result.error for result in results) and not keep_going:
            results = [_spared(result) for result in results]
        else:
            results = self._each(partial(self._changed, change), results, told)
            if not keep_going and (self._stop.is_set() or any(result.error for result in results)):
                results = self.undo(change, results)
        for result in results:
            told(result)
        return results

    def undo(self, change: Change, results: Sequence[Result]) -> list[Result]:
        """Bring the server back to how it was found, wherever it was changed or may have been."""
        return self._each(partial(_undone, change), results)

    def _changed(self, change: Change, interface: Interface, found: Result) -> Result:
        if found.error or found.outcome == "unchanged":
            return found
        return _spared(found) if self._stop.is_set() else _done(change, interface, found)

    def _each(
        self,
        work: Callable[[Interface, Result], Result],
        results: Sequence[Result],
        tell: Tell | None = None,
    ) -> list[Result]:
        pairs = zip(self.interfaces, results, strict=True)
        return self._at_once([partial(work, interface, result) for interface, result in pairs], tell)

    @staticmethod
    def _at_once(calls: Sequence[Callable[[], T]], tell: Callable[[T], None] | None = None) -> list[T]:
        with ThreadPoolExecutor(min(len(calls), _MOST_AT_ONCE) or 1, "balancer") as threads:
            futures = [threads.submit(call) for call in calls]
            for future in as_completed(futures) if tell else ():
                if tell is not None:
                    tell(future.result())
            return [future.result() for future in futures]


# ---------------------------------------------------------------- one balancer


def _listing(interface: Interface) -> Listing:
    try:
        return Listing(interface.balancer, interface.peers())
    except BalancerError as error:
        return Listing(interface.balancer, error=str(error))


def _judged(change: Change, listing: Listing) -> Result:
    """What a balancer that was looked at is to expect."""
    peer = listing.find(change.server)
    result = Result(listing.balancer, before=peer, after=peer, error=listing.error)
    if not result.error and peer is None:
        result = replace(result, error=f"it has no server {change.server}")
    if not result.error and change.wish.down:
        left = sum(not one.down and one.server != change.server for one in listing.peers)
        # A server that is down already takes nothing away.
        if left < change.least_up and peer is not None and not peer.down:
            result = replace(result, error=f"{left} would be left up, and {change.least_up} must be")
    if result.error:
        return replace(result, outcome="failed")
    return replace(result, outcome="unchanged") if peer and change.wish.met(peer) else result


def _spared(found: Result) -> Result:
    return found if found.error else replace(found, outcome="untouched")


def _done(change: Change, interface: Interface, found: Result) -> Result:
    """Change and verify."""
    asked = replace(found, asked=True, error="")
    try:
        interface.change(change.server, change.wish)
        after = _find(interface, change.server)
    except BalancerError as error:
        return replace(asked, outcome="failed", error=str(error))
    if after is None or not change.wish.met(after):
        return replace(
            asked, outcome="failed", after=after, error="it agreed, but lists the server unchanged"
        )
    return replace(asked, outcome="changed", after=after)


def _undone(change: Change, interface: Interface, result: Result) -> Result:
    if not result.asked or result.before is None:
        return _spared(result)
    back = _done(replace(change, wish=change.wish.as_found(result.before)), interface, result)
    if result.error:  # it stays a failure; whether it is as before is what is left to say
        fate = "it is as before" if not back.error else "whether it was changed is not known"
        return replace(result, after=back.after, error=f"{result.error}; {fate}")
    if back.error:
        return replace(back, error=f"changed, and could not be undone: {back.error}")
    return replace(back, outcome="undone")


def _find(interface: Interface, server: str) -> Peer | None:
    return Listing(interface.balancer, interface.peers()).find(server)

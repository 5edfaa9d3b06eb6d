"""All load balancers of a service at once: look, change, verify, and undo if one of them fails.

Every load balancer is looked at before any is changed, so that one that hangs stops the change before it
starts. Each request has its own timeout, so the whole is bounded too. Knows the interface, and nothing of
Consul.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal, TypeVar

from agentd.errors import HandlerError
from handlers.nginx_upstream.interface import Desired, UpstreamInterface
from handlers.nginx_upstream.server import Server

Outcome = Literal["waiting", "changed", "unchanged", "untouched", "undone", "failed"]
_MOST_THREADS: Final = 128


@dataclass(frozen=True, slots=True)
class Balancer:
    """A load balancer: the name of its node, and where its interface listens."""

    node: str
    host: str
    port: int

    @property
    def address(self) -> str:
        """HOST:PORT, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.node} ({self.address})"


@dataclass(frozen=True, slots=True)
class Listing:
    """The servers that one load balancer lists, or why it does not."""

    balancer: Balancer
    servers: Mapping[str, Server] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What happened on one load balancer.

    Attributes:
        outcome: changed and unchanged were verified by listing again; untouched was left alone because
            another failed; undone is as it was found.
        before: the server as it was found, None if it was not.
        after: as it was listed last.
        error: why it failed.
        asked: the change was sent, so it may have been made even if an error followed.
        seconds: since the beginning.
    """

    balancer: Balancer
    outcome: Outcome = "waiting"
    before: Server | None = None
    after: Server | None = None
    error: str = ""
    asked: bool = False
    seconds: float = 0.0


Report = Callable[[Result], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Update:
    """What to do with one server.

    Attributes:
        address: of the server, as nginx writes it.
        desired: how it is to be.
        min_servers: that must stay up on each load balancer when one is taken down.
    """

    address: str
    desired: Desired
    min_servers: int = 0


class Balancers:
    """The load balancers of one upstream; for one thread.

    Args:
        interfaces: of each load balancer.
        stop: once set, from any thread, no further change is started, and what was changed is undone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        interfaces: Mapping[Balancer, UpstreamInterface],
        stop: threading.Event | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interfaces = interfaces
        self._stop = stop or threading.Event()
        self._clock = clock

    def look(self) -> list[Listing]:
        """List the servers on each, in the order of the load balancers."""
        with self._threads() as threads:
            return self._look(threads)

    def change(
        self, update: Update, *, keep_going: bool = False, report: Report | None = None
    ) -> list[Result]:
        """Change one server on all of them, or on none if one fails.

        Args:
            update: what to do.
            keep_going: change those that can be changed, and undo nothing.
            report: called in this thread with each result as it comes; a load balancer may come again.

        Returns:
            One result per load balancer, in their order. All is well if none failed and none is untouched.
        """
        began = self._clock()

        def timed(result: Result) -> None:
            if report is not None:
                report(replace(result, seconds=self._clock() - began))

        with self._threads() as threads:
            results = [_judge(update, listing) for listing in self._look(threads)]
            if any(result.error for result in results) and not keep_going:
                results = [_untouched(result) for result in results]
            else:
                results = self._each(threads, partial(self._change, update), results, timed)
                if not keep_going and (self._stop.is_set() or any(result.error for result in results)):
                    results = self._each(threads, partial(_undo, update), results)
        for result in results:
            timed(result)
        return results

    def _change(self, update: Update, interface: UpstreamInterface, found: Result) -> Result:
        if found.error or found.outcome == "unchanged":
            return found
        return _untouched(found) if self._stop.is_set() else _change(update, interface, found)

    def _look(self, threads: Executor) -> list[Listing]:
        return _at_once(threads, [partial(_listing, *pair) for pair in self.interfaces.items()])

    def _each(
        self,
        threads: Executor,
        work: Callable[[UpstreamInterface, Result], Result],
        results: Sequence[Result],
        report: Report | None = None,
    ) -> list[Result]:
        calls = [partial(work, self.interfaces[result.balancer], result) for result in results]
        return _at_once(threads, calls, report)

    @contextmanager
    def _threads(self) -> Iterator[Executor]:
        """Threads for one operation, in which each load balancer is asked over one connection."""
        try:
            with ThreadPoolExecutor(min(len(self.interfaces), _MOST_THREADS) or 1, "balancer") as threads:
                yield threads
        finally:
            for interface in self.interfaces.values():
                interface.close()


def _at_once(
    threads: Executor, calls: Sequence[Callable[[], T]], report: Callable[[T], None] | None = None
) -> list[T]:
    futures = [threads.submit(call) for call in calls]
    if report is not None:
        for future in as_completed(futures):
            report(future.result())
    return [future.result() for future in futures]


# ---------------------------------------------------------------- one load balancer


def _listing(balancer: Balancer, interface: UpstreamInterface) -> Listing:
    try:
        return Listing(balancer, interface.list())
    except HandlerError as error:
        return Listing(balancer, error=str(error))


def _judge(update: Update, listing: Listing) -> Result:
    """What can be done on a load balancer that was looked at."""
    server = listing.servers.get(update.address)
    result = Result(listing.balancer, before=server, after=server, error=listing.error)
    if not result.error and server is None:
        result = replace(result, error=f"it has no server {update.address}")
    if server and not server.down and update.desired.down:  # one that is down already takes nothing away
        left = sum(not one.down for one in listing.servers.values()) - 1
        if left < update.min_servers:
            result = replace(
                result, error=f"only {left} servers would stay up, and min_servers is {update.min_servers}"
            )
    if result.error:
        return replace(result, outcome="failed")
    return replace(result, outcome="unchanged") if server and update.desired.met_by(server) else result


def _untouched(found: Result) -> Result:
    return found if found.error else replace(found, outcome="untouched")


def _change(update: Update, interface: UpstreamInterface, found: Result) -> Result:
    """Change, and look again: that a change was accepted does not prove it."""
    asked = replace(found, asked=True, error="")
    try:
        interface.update(update.address, update.desired)
        after = interface.list().get(update.address)
    except HandlerError as error:
        return replace(asked, outcome="failed", error=str(error))
    if after is None or not update.desired.met_by(after):
        return replace(
            asked,
            outcome="failed",
            after=after,
            error="it accepted the change, but lists the server unchanged",
        )
    return replace(asked, outcome="changed", after=after)


def _undo(update: Update, interface: UpstreamInterface, result: Result) -> Result:
    """Bring the server back to how it was found, if it was changed or may have been."""
    if not result.asked or result.before is None:
        return _untouched(result)
    back = _change(replace(update, desired=update.desired.restoring(result.before)), interface, result)
    if result.error:  # it remains a failure; what is left to say is whether it is as before
        fate = "it is as it was before" if not back.error else "it is unknown whether it was changed"
        return replace(result, after=back.after, error=f"{result.error}; {fate}")
    if back.error:
        return replace(back, error=f"changed, and could not be changed back: {back.error}")
    return replace(back, outcome="undone")

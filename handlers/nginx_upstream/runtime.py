"""Keeps a balancer that runs in step with the roster, and learns from it what operators took down.

An interface that does not answer never holds a change up: the file is committed, the difference is told and
counted, and the balancer is brought into step once it answers. Who is right about a server that is down here
and up there is decided in `_down`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agentd.handler import Context, HandlerError
from handlers.nginx_upstream.drivers import UP, Driver, Running
from handlers.nginx_upstream.drivers.dynamic import DynamicDriver
from handlers.nginx_upstream.drivers.haproxy import HAProxyDriver
from handlers.nginx_upstream.drivers.interface import UpstreamInterface
from handlers.nginx_upstream.options import UpstreamOptions
from handlers.nginx_upstream.roster import Roster
from handlers.nginx_upstream.servers import Server

_LONGEST_WAIT: Final = 30.0
_MOST_DOUBLINGS: Final = 8


def runtime_of(options: UpstreamOptions) -> Runtime | None:
    """What these options ask for; None for the file driver."""
    if options.interface is None:
        return None
    if options.driver == "haproxy":
        return Runtime(
            HAProxyDriver(options.interface, options.upstream, options.interface_timeout), options.sync
        )
    interface = UpstreamInterface(options.interface, options.upstream, timeout=options.interface_timeout)
    return Runtime(DynamicDriver(interface), options.sync)


class Runtime:
    """One upstream of one balancer. `learn`, then `apply`, in one attempt."""

    def __init__(self, driver: Driver, sync: float) -> None:
        self._driver = driver
        self._sync = sync
        self._seen: dict[
            str, tuple[str, int]
        ] = {}  # address -> how it is down, generation when that was learnt
        self._epoch: str | None = None
        self._loaded: int | None = None
        self._trouble = ""
        self._failures = 0

    def reloaded(self, generation: int) -> None:
        """This generation was loaded: what it was told at run time may be gone."""
        self._loaded = generation

    # ------------------------------------------------------------------ what is

    def learn(self, roster: Roster, context: Context) -> Roster:
        """The roster with what operators took down and put up since."""
        self._trouble = ""
        if context.dry_run:
            return roster
        known_before = context.store.get("query")  # the roster may hold the first state ever by now
        try:
            running = self._driver.look(roster.used if known_before else None)
        except HandlerError as error:
            self._trouble = str(error)
            return roster
        known = roster.used.keys() | {server.address for server in roster.fit}
        down = {address: how for address, how in self._down(running, roster).items() if address in known}
        self._say(roster.down, down, context)
        self._remember(down, running, context.generation)
        return roster.taken(down)

    def _down(self, running: Running, roster: Roster) -> dict[str, str]:
        """What is down now.

        The balancer is right about the servers that it has, unless it has forgotten: a reload loses what was
        not in the file that it read, and a HAProxy that was started anew has no file of ours at all.
        """
        down = {address: how for address, how in roster.down.items() if address not in running.states}
        down |= {address: how for address, how in running.states.items() if how != UP}
        if self._epoch not in (None, running.epoch):
            down = {**roster.down, **{address: how for address, (how, _) in self._seen.items()}, **down}
        if self._loaded is not None:
            for address, (how, learnt) in self._seen.items():
                if address not in roster.down or learnt >= self._loaded:
                    down.setdefault(address, how)
        return down

    def _remember(self, down: Mapping[str, str], running: Running, generation: int) -> None:
        known = {address: learnt for address, (_, learnt) in self._seen.items()}
        self._seen = {address: (how, known.get(address, generation)) for address, how in down.items()}
        self._epoch, self._loaded = running.epoch, None

    def _say(self, before: Mapping[str, str], after: Mapping[str, str], context: Context) -> None:
        for address in sorted(before.keys() ^ after.keys()):
            state = after.get(address, UP)
            context.log.info("upstream.operator", server=address, state=state)

    # ------------------------------------------------------------------ what should be

    def apply(self, servers: Sequence[Server], down: Mapping[str, str], context: Context) -> float | None:
        """Bring the balancer into step. Returns the unix time of the next comparison."""
        if context.dry_run:
            return None
        if not self._trouble:
            try:
                changes = self._driver.apply(servers, down)
            except HandlerError as error:
                self._trouble = str(error)
            else:
                if changes:
                    context.log.info("upstream.set", servers=len(servers), changes=changes)
        gauges = context.store.get("gauges", {})
        context.store["gauges"] = gauges | {"upstream_in_step": float(not self._trouble)}
        return context.now + self._wait(context)

    def _wait(self, context: Context) -> float:
        if not self._trouble:
            if self._failures:
                context.log.info("upstream.in_step", failures=self._failures)
            self._failures = 0
            return self._sync
        if self._failures == 0:
            context.log.error("upstream.out_of_step", reason=self._trouble, advice="it is tried again")
        self._failures += 1
        return min(self._sync * 2.0 ** min(self._failures, _MOST_DOUBLINGS), _LONGEST_WAIT)

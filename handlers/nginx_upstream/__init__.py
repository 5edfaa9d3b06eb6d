"""Keeps an upstream equal to a service: instances that are fit become servers.

Owns `upstreams/NAME.conf` (or `.stream`) in the tree and, with a run-time driver, the servers of that
upstream in the running nginx or HAProxy. One entry has one `service` in `on`. What Consul says is judged
first (`guards`); an event whose payload is the upstream's name overrides the guards, once:

    on: [{service: api}, {event: upstream-override}]        agentd fire upstream-override api

A run-time driver asks its interface every `sync` seconds. What an operator took down there stays down: it is
written into the store and into the file, so that a reload or a restart starts with it.
"""

from __future__ import annotations

from typing import ClassVar

from agentd.handler import (
    Change,
    Context,
    Event,
    Handler,
    HandlerOptions,
    Instance,
    Notification,
    PermanentError,
    ServiceState,
)
from handlers.nginx_upstream import render
from handlers.nginx_upstream.guards import Verdict
from handlers.nginx_upstream.options import UpstreamOptions
from handlers.nginx_upstream.roster import Roster
from handlers.nginx_upstream.runtime import Runtime, runtime_of
from handlers.nginx_upstream.servers import Server, servers_of

__all__ = ["NginxUpstream"]


class NginxUpstream(Handler):
    """Keeps an upstream equal to a service; one entry of the YAML map is one upstream."""

    Options: ClassVar[type[HandlerOptions]] = UpstreamOptions
    options: UpstreamOptions

    def __init__(self, given: UpstreamOptions) -> None:
        super().__init__(given)
        self._limits = given.limits
        self._fallback = [Server(address) for address in given.fallback]
        self._runtime: Runtime | None = runtime_of(given)

    def initial(self, context: Context) -> None:
        """Stage what is known of earlier times, or the fallback, so that nginx has an upstream to load."""
        roster = Roster.load(context.store)
        roster.save(context.store)
        self._stage(roster, context)

    def handle(self, change: Change, context: Context) -> None:
        """Take over a state, an override, or that nginx was reloaded.

        Raises:
            PermanentError: another kind of change, an override of another upstream, or a template that fails.
        """
        roster = Roster.load(context.store)
        match change:
            case ServiceState():
                roster = roster.found(change.query, self._servers(change, context))
            case Event():
                roster = self._overridden(change, roster, context)
            case Notification():
                if self._runtime:
                    self._runtime.reloaded(change.generation)
            case _:
                raise PermanentError(f"nginx_upstream takes the state of a service, not a {change.kind}")
        self._settle(roster, context)

    def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (context has it)
        """Remove whom the grace is over for; let a run-time driver compare."""
        roster = Roster.load(context.store)
        return self._settle(roster, context, known=roster)

    # ------------------------------------------------------------------ what came

    def _servers(self, state: ServiceState, context: Context) -> list[Server]:
        refused = 0

        def refuse(instance: Instance, reason: str) -> None:
            nonlocal refused
            refused += 1
            context.log.warning("upstream.instance_refused", instance=instance.id[:64], reason=reason)

        servers = servers_of(state.instances, self.options.rules, refuse)
        context.store["gauges"] = context.store.get("gauges", {}) | {"upstream_instances_refused": refused}
        return servers

    def _overridden(self, event: Event, roster: Roster, context: Context) -> Roster:
        if event.payload.strip() != self.options.upstream.encode():
            raise PermanentError(
                f"the payload of an override is the upstream's name, {self.options.upstream}"
            )
        forced = roster.forced()
        context.log.warning("upstream.overridden", removed=sorted(roster.used.keys() - forced.used.keys()))
        return forced

    # ------------------------------------------------------------------ what follows

    def _settle(self, roster: Roster, context: Context, known: Roster | None = None) -> float | None:
        """Judge, set at run time, and stage what is not `known` already.

        Returns:
            The unix time of the next timed work, or None.
        """
        before, again = roster, None
        runtime = self._runtime if roster.query else None  # without a state nobody knows who should serve
        if runtime:
            roster = runtime.learn(roster, context)
        roster, verdict = roster.judged(context.now, self._limits, self.options.keep_down)
        self._tell(before, verdict, context)
        if runtime:
            again = runtime.apply(self._chosen(roster), roster.down, context)
        if roster != known:
            roster.save(context.store)
            self._stage(roster, context)
        return min((at for at in (verdict.due, again) if at is not None), default=None)

    def _chosen(self, roster: Roster) -> list[Server]:
        return render.settled(roster.servers, self._fallback, backups=self.options.takes_backups)

    def _stage(self, roster: Roster, context: Context) -> None:
        if self.options.driver == "haproxy":
            return
        servers, frame, template = self._chosen(roster), self.options.frame, self.options.template
        made = render.from_template(template, frame, servers) if template else render.built_in(frame, servers)
        context.files.write(self.options.path, made)

    def _tell(self, before: Roster, verdict: Verdict, context: Context) -> None:
        if verdict.guard and verdict.guard != before.guard:
            context.log.warning(
                "upstream.held",
                upstream=self.options.upstream,
                guard=verdict.guard,
                reason=verdict.reason,
                servers=sorted(verdict.missing),
                advice="fire the override event with the upstream's name once this is what you want",
            )
        elif before.guard and not verdict.guard:
            context.log.info("upstream.released", upstream=self.options.upstream, guard=before.guard)

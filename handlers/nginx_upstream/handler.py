"""Keeps an upstream equal to a service: instances that are fit become servers.

Owns `upstreams/NAME.conf` (or `.stream`) in the tree and, with a run-time driver, the servers of that
upstream in the running nginx or HAProxy. Each configured handler has one `service` in `on`. Consul's answer
is judged first (`membership`); an event whose payload is the upstream's name overrides the guards, once:

    on: [{service: api}, {event: upstream-override}]        agentd fire upstream-override api

A run-time driver asks its interface every `sync` seconds, and just before each reload. What an operator set
there, down or a weight, stays: it is written to the store and to the file, so that a reload or a restart
starts with it. What cannot be set at run time takes effect with a reload, which the handler asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from agentd.handler import (
    Change,
    Context,
    Drift,
    Event,
    Handler,
    HandlerOptions,
    Notification,
    PermanentError,
    ServiceState,
    TemporaryError,
    Verdict,
)
from agentd.nginx import canary
from agentd.nginx.processes import Processes
from handlers.nginx_upstream import render
from handlers.nginx_upstream.access import doubt
from handlers.nginx_upstream.balancing import Balancing
from handlers.nginx_upstream.dynamic import DynamicDriver
from handlers.nginx_upstream.haproxy import HAProxyDriver
from handlers.nginx_upstream.hosts import check_host
from handlers.nginx_upstream.instances import Refusal, servers_of
from handlers.nginx_upstream.interface import UpstreamInterface
from handlers.nginx_upstream.membership import Membership
from handlers.nginx_upstream.membership import Verdict as Judgement
from handlers.nginx_upstream.options import UpstreamOptions
from handlers.nginx_upstream.runtime import Driver, Runtime
from handlers.nginx_upstream.server import Server, in_order

__all__ = ["NginxUpstream"]

_MOST_LINES: Final = 20  # of the log for one state, however many instances are refused
_LONGEST: Final = 64  # characters of a name from Consul
_LONGEST_REASON: Final = 200
_FINGERPRINT: Final = 32  # hex digits


class NginxUpstream(Handler):
    """Keeps an upstream equal to a service in Consul; each entry is one upstream."""

    Options: ClassVar[type[HandlerOptions]] = UpstreamOptions
    options: UpstreamOptions

    def __init__(self, given: UpstreamOptions) -> None:
        super().__init__(given)
        self._limits = given.limits
        self._fallback = [Server(address) for address in given.fallback]
        self._runtime = _runtime(given)
        self._socket = _socket(given)
        self._balancing = Balancing(given.upstream)

    def initial(self, context: Context) -> None:
        """Stage the servers last known, or the fallback, so that nginx has an upstream to load."""
        membership = Membership.load(context.store)
        permitted = membership.permitted(self._check)
        self._tell_refused(membership, permitted, context)
        permitted.save(context.store)
        self._stage(permitted, context)

    def preflight(self, context: Context) -> Sequence[Drift]:
        """What Consul lists and may not be a server, and a run-time interface that others can reach."""
        membership = Membership.load(context.store).permitted(self._check)
        refused = [
            Drift("networks", f"{name} is refused: {reason}", warning=bool(membership.fit))
            for name, reason in membership.refused.items()
        ]
        place = self.options.place
        exposed = place and doubt(place, nginx=self.options.driver == "dynamic")
        return [*refused, *([Drift("interface", exposed, warning=True)] if exposed else ())]

    def handle(self, change: Change, context: Context) -> None:
        """Apply a state, an override, or the notification that nginx was reloaded.

        Raises:
            PermanentError: another kind of change, an override of another upstream, or a template that fails.
        """
        membership = Membership.load(context.store)
        match change:
            case ServiceState():
                membership = self._found(change, membership, context)
            case Event():
                membership = self._overridden(change, membership, context)
            case Notification():
                if self._runtime:
                    self._runtime.reloaded(change.generation)
            case _:
                raise PermanentError(f"nginx_upstream takes the state of a service, not a {change.kind}")
        self._settle(membership, context)

    def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (context has it)
        """Remove the servers whose grace period is over; let a run-time driver compare."""
        membership = Membership.load(context.store)
        return self._settle(membership, context, known=membership)

    def verify(self, context: Context) -> Verdict:
        """Whether the load balancer has the servers that are committed; what differs is set right."""
        membership = Membership.load(context.store)
        if self._runtime is None or not membership.query:
            return Verdict()
        return self._runtime.verify(membership, self._chosen, context, self._method(context))

    def fingerprint(self, context: Context) -> str | None:
        """Of the servers in use, as Consul has them: what an operator set on one node is that node's own."""
        membership = Membership.load(context.store)
        if not membership.query:
            return None
        fit = {server.address for server in membership.fit}
        used = [
            one
            for one in membership.used.values()
            if one.address in fit or one.address not in membership.down
        ]
        lines = "".join(f"{one.text()}\n" for one in in_order(used))
        return hashlib.sha256(lines.encode()).hexdigest()[:_FINGERPRINT]

    # ------------------------------------------------------------------ what came

    def _found(self, state: ServiceState, before: Membership, context: Context) -> Membership:
        """With what the state finds fit; what it must leave out is told."""
        servers, refusals = servers_of(state.instances, self.options.rules)
        for one in [each for each in refusals if each.parameter][:_MOST_LINES]:
            context.log.warning(
                "upstream.parameter_refused", instance=_name(one), parameter=one.parameter, reason=one.reason
            )
        refused = {_name(one): one.reason[:_LONGEST_REASON] for one in refusals if not one.parameter}
        after = before.found(state.query, servers, refused)
        self._tell_refused(before, after, context)
        return after

    def _check(self, host: str) -> object:
        """Raise ValueError if no server may be there."""
        return check_host(host, self.options.rules.networks)

    def _tell_refused(self, before: Membership, after: Membership, context: Context) -> None:
        for name, reason in after.refused.items():
            if before.refused.get(name) != reason:
                context.log.warning("upstream.instance_refused", instance=name, reason=reason)
        if after.refusals > len(after.refused) and after.refusals != before.refusals:
            context.log.warning("upstream.instances_refused", instances=after.refusals)

    def _overridden(self, event: Event, membership: Membership, context: Context) -> Membership:
        if event.payload.strip() != self.options.upstream.encode():
            raise PermanentError(
                f"the payload of an override is the upstream's name, {self.options.upstream}"
            )
        forced = membership.forced()
        context.log.warning(
            "upstream.overridden", removed=sorted(membership.used.keys() - forced.used.keys())
        )
        return forced

    # ------------------------------------------------------------------ what follows

    def _settle(
        self, membership: Membership, context: Context, known: Membership | None = None
    ) -> float | None:
        """Judge, set at run time, and stage what is not `known` already.

        Returns:
            The unix time of the next timed work, or None.
        """
        before, again, committed = membership, None, Membership.load(context.store)
        runtime = (
            self._runtime if membership.query else None
        )  # before the first state it is unknown which servers there should be
        if runtime:
            membership = runtime.learn(membership, context)
        membership, verdict = membership.judged(context.now, self._limits, self.options.keep_down)
        self._tell(before, verdict, context)
        if runtime:
            news = membership != known
            chosen, method = self._chosen(membership), self._method(context)
            again = runtime.apply(chosen, membership, context, method, news=news)
            if not runtime.in_step and self._socket and not context.dry_run:
                canary.remove_stale(self._socket)  # nginx would not start with it
            if _by_file(self._chosen(membership)) != _by_file(self._chosen(committed)):
                context.reload()
        elif self._runtime is None:
            context.store["status"] = membership.status
        if membership != known:
            membership.save(context.store)
            self._stage(membership, context)
        return min((at for at in (verdict.due, again) if at is not None), default=None)

    def _chosen(self, membership: Membership) -> list[Server]:
        return render.usable(membership.servers, self._fallback, backups=self.options.takes_backups)

    def _method(self, context: Context) -> str:
        """The balancing method that matters to the driver; "" for another, or none."""
        if self.options.driver != "dynamic" or self.options.balancer == "lua":
            return ""
        return self._balancing.method(context.files.read(self.options.path) or b"", context.nginx.conf)

    def _stage(self, membership: Membership, context: Context) -> None:
        if self.options.driver == "haproxy":
            return
        servers, block, template = self._chosen(membership), self.options.block, self.options.template
        made = render.from_template(template, block, servers) if template else render.built_in(block, servers)
        context.files.write(self.options.path, made)

    def _tell(self, before: Membership, verdict: Judgement, context: Context) -> None:
        if verdict.guard and verdict.guard != before.guard:
            context.log.warning(
                "upstream.held",
                upstream=self.options.upstream,
                guard=verdict.guard,
                reason=verdict.reason,
                servers=sorted(verdict.missing),
                advice="if you want this, fire the override event with the upstream's name as its payload",
            )
        elif before.guard and not verdict.guard:
            context.log.info("upstream.released", upstream=self.options.upstream, guard=before.guard)


def _runtime(options: UpstreamOptions) -> Runtime | None:
    """What sets servers at run time; None with the file driver."""
    place, timeout = options.place, options.interface_timeout
    if place is None:
        return None
    driver: Driver
    if options.driver == "haproxy":
        driver = HAProxyDriver(place, options.upstream, timeout)
    else:
        module = options.balancer != "lua"
        interface = UpstreamInterface(place, options.upstream, timeout=timeout, module=module)
        driver = DynamicDriver(interface, module=module)
    return Runtime(driver, place, options.sync, _workers)


def _socket(options: UpstreamOptions) -> Path | None:
    """The unix socket that nginx makes for the interface, if it does."""
    if options.driver != "dynamic" or not (options.place or "").startswith("unix:"):
        return None
    return Path((options.place or "").split(":")[1])


def _name(refusal: Refusal) -> str:
    instance = refusal.instance
    return f"instance {instance.id[:_LONGEST]} on node {instance.node[:_LONGEST]}"


def _by_file(servers: list[Server]) -> set[tuple[str, bool, int]]:
    """What of them no run-time interface takes: backup servers, and limits of connections."""
    return {(one.address, one.backup, one.max_conns) for one in servers if one.backup or one.max_conns}


def _workers(context: Context) -> frozenset[int]:
    """The workers of this node's nginx; none if they cannot be known."""
    try:
        return frozenset(Processes(context.nginx).look().workers)
    except TemporaryError:
        return frozenset()

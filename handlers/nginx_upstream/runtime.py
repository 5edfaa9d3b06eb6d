"""Keeps a load balancer that runs in step with the upstream's state, and learns what operators set there.

A driver (one module per kind of load balancer) looks, and makes what runs equal to what it is given; it does
not decide what that is. An interface that does not answer never delays a change: the file is committed, the
difference is logged and counted, and the load balancer is brought into step once it answers, or by a reload.

Operators win over Consul: what was taken down stays down until it is put up, and a weight that was set stays
until the server is given the one that Consul says. `memory` tells this from what was lost or not set yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from agentd.handler import Context, Drift, HandlerError, PermanentError, Verdict
from handlers.nginx_upstream.interface import Unanswered
from handlers.nginx_upstream.membership import Membership
from handlers.nginx_upstream.memory import Memory
from handlers.nginx_upstream.server import Server

_LONGEST_WAIT: Final = 30.0
_MOST_DOUBLINGS: Final = 8
_MOST_WEIGHT: Final = 65535
UP: Final = "up"


@dataclass(frozen=True, slots=True)
class Running:
    """The servers that a load balancer has.

    Attributes:
        states: address -> "up", or the state that an operator put it in ("down", "drain", "maint").
        weights: address -> its weight.
        epoch: changes when the load balancer has forgotten what was set, if it can say that.
    """

    states: Mapping[str, str]
    weights: Mapping[str, int] = field(default_factory=dict)
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a driver did, and what it left alone.

    Attributes:
        changes: what differed and was set, such as "10.0.0.1:80 was missing".
        left: address -> why only a reload can bring this server into step.
    """

    changes: Sequence[str] = ()
    left: Mapping[str, str] = field(default_factory=dict)


class Driver(Protocol):
    """Sets the servers of one upstream.

    Attributes:
        least_weight: the smallest weight that the load balancer starts with.

    Raises:
        Unanswered: from `look` and `apply`: no answer in time, now or since the last `reset`.
        TemporaryError: from both: no answer, or one that makes no sense.
        PermanentError: from both: the load balancer refused.
    """

    least_weight: int

    def look(self, known: Collection[str] | None) -> Running:
        """List its servers; `known` are those that agentd put into use, None before the first state."""

    def apply(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:
        """Make what `look` found equal to this, and look again to verify.

        Args:
            servers: all that there should be.
            down: address -> the state that an operator put it in.
            method: nginx's balancing directive, such as "ip_hash".
        """

    def compare(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:
        """What `apply` would do, by what `look` found; nothing is asked."""

    def give_up(self, reason: str) -> None:
        """Ask nothing: a question was not answered before agentd was started."""

    def reset(self) -> None:
        """Ask again, although a question was not answered: other workers serve now."""


@dataclass(frozen=True, slots=True)
class _Operators:
    """What operators want: who is down (and how), and the weights that are not Consul's."""

    down: Mapping[str, str]
    weights: Mapping[str, int]


class Runtime:
    """One upstream of one load balancer; `learn`, then `apply`, in each attempt.

    Args:
        driver: of that load balancer.
        interface: where it is reached, for the log.
        sync: seconds between two comparisons.
        workers: the processes that answer there, if they can be known.
    """

    def __init__(
        self,
        driver: Driver,
        interface: str,
        sync: float,
        workers: Callable[[Context], Collection[int]] = lambda _context: (),
    ) -> None:
        self._driver = driver
        self._interface = interface
        self._sync = sync
        self._workers = workers
        self._states: Memory[str] = Memory()
        self._weights: Memory[int | None] = Memory()
        self._epoch: str | None = None
        self._loaded: int | None = None
        self._stuck: Collection[int] | None = None  # the workers when a question was not answered
        self._trouble: HandlerError | None = None
        self._failures = 0
        self._left: Mapping[str, str] = {}
        self._in_place = False  # all that there should be was set since the start, and the last reload

    def reloaded(self, generation: int) -> None:
        """This generation was loaded: what was set at run time may be gone."""
        self._loaded = generation
        self._in_place = False
        self._stuck = None
        self._driver.reset()

    @property
    def in_step(self) -> bool:
        """Whether the load balancer answered when it was last asked."""
        return self._trouble is None

    # ------------------------------------------------------------------ what is

    def learn(self, membership: Membership, context: Context) -> Membership:
        """The state with what operators have set since: down, up, and weights."""
        self._trouble = None
        if context.dry_run:
            return membership
        try:
            running = self._look(membership, context)
        except HandlerError as error:
            self._trouble = error
            return membership
        self._recall(membership, context)
        wanted = self._wanted(running, membership, context)
        self._say(membership, wanted, context)
        self._remember(running, wanted, membership, context)
        return membership.operated(wanted.down, wanted.weights)

    def _look(self, membership: Membership, context: Context) -> Running:
        if self._stuck is None and (told := context.store.get("stuck")):
            self._stuck = told["workers"]
            self._driver.give_up(told["reason"])
        if self._stuck is not None and self._replaced(context):
            self._stuck = None
            self._driver.reset()
        # `membership` may have the first state ever by now.
        known = membership.used if context.store.get("query") else None
        with self._watching(context):
            return self._driver.look(known)

    def _replaced(self, context: Context) -> bool:
        """Whether none is left of the workers that there were when a question was not answered."""
        now = set(self._workers(context))
        return now.isdisjoint(self._stuck or ()) and now != set(self._stuck or ())

    @contextmanager
    def _watching(self, context: Context) -> Iterator[None]:
        """Note which workers there are when a question is not answered."""
        try:
            yield
        except Unanswered:
            self._stuck = self._workers(context) if self._stuck is None else self._stuck
            raise

    def _wanted(self, running: Running, membership: Membership, context: Context) -> _Operators:
        """What operators want, by what the load balancer lists and by what it has lost."""
        known = membership.used.keys() | {server.address for server in membership.fit}
        forgot = self._epoch not in (None, running.epoch)
        down, weights = dict(membership.down), dict(membership.weights)
        for address in known:
            state = self._state(address, running, membership, forgot=forgot)
            down.pop(address, None)
            if state != UP:
                down[address] = state
            weight = self._weight(address, running, membership, context, forgot=forgot)
            weights.pop(address, None)
            if weight is not None:
                weights[address] = weight
        return _Operators({one: how for one, how in down.items() if one in known}, weights)

    def _state(self, address: str, running: Running, membership: Membership, *, forgot: bool) -> str:
        committed = membership.down.get(address, UP)
        last = self._states.last(address, committed)
        if address not in running.states:
            return last if address in membership.used else committed
        listed = running.states[address]
        if forgot:
            return listed if last == UP else last
        return self._states.wish(address, listed, listed, committed, self._loaded)

    def _weight(
        self, address: str, running: Running, membership: Membership, context: Context, *, forgot: bool
    ) -> int | None:
        """The weight that an operator wants, None for Consul's."""
        committed = membership.weights.get(address)
        if address not in membership.used:  # what is listed is not what agentd, or somebody after it, set
            return committed
        listed = running.weights.get(address)
        if listed is None or forgot:
            return self._weights.last(address, committed)
        by_consul = {membership.used[address].weight} | {
            server.weight for server in membership.fit if server.address == address
        }
        says = committed if listed == committed else None if listed in by_consul else listed
        wish = self._weights.wish(address, listed, says, committed, self._loaded)
        if wish is None or self._driver.least_weight <= wish <= _MOST_WEIGHT:
            return wish
        context.log.warning(
            "upstream.weight_refused",
            server=address,
            weight=wish,
            advice="nginx does not start with this weight; to take the server out of use, set it down",
        )
        return None

    def _recall(self, membership: Membership, context: Context) -> None:
        """What could not be set before agentd was restarted is listed as it was, which says nothing new."""
        for address, (state, weight) in context.store.get("lagging", {}).items():
            if address not in self._states:
                committed = membership.down.get(address, UP), membership.weights.get(address)
                self._states.remember(address, committed[0], state, committed[0], 0)
                self._weights.remember(address, committed[1], weight, committed[1], 0)

    def _remember(
        self, running: Running, wanted: _Operators, membership: Membership, context: Context
    ) -> None:
        known = membership.used.keys() | {server.address for server in membership.fit}
        for address in known & running.states.keys():
            down, was = wanted.down.get(address, UP), membership.down.get(address, UP)
            self._states.remember(address, down, running.states[address], was, context.generation)
        for address in known & running.weights.keys():
            weight, had = wanted.weights.get(address), membership.weights.get(address)
            self._weights.remember(address, weight, running.weights[address], had, context.generation)
        for memory in (self._states, self._weights):
            memory.forget(frozenset(known))
        self._epoch, self._loaded = running.epoch, None

    def _say(self, before: Membership, after: _Operators, context: Context) -> None:
        for address in sorted(before.used.keys() | {server.address for server in before.fit}):
            states = before.down.get(address, UP), after.down.get(address, UP)
            weights = before.weights.get(address), after.weights.get(address)
            if states[0] != states[1]:
                context.log.info("upstream.operator", server=address, state=states[1])
            if weights[0] != weights[1]:
                context.log.info(
                    "upstream.operator",
                    server=address,
                    weight="as Consul says" if weights[1] is None else weights[1],
                )

    # ------------------------------------------------------------------ what should be

    def apply(
        self,
        servers: Sequence[Server],
        membership: Membership,
        context: Context,
        method: str = "",
        *,
        news: bool = True,
    ) -> float | None:
        """Bring the load balancer into step, or ask for a reload if nothing else can.

        Args:
            servers: all that there should be.
            membership: the state that they are from.
            context: of this attempt.
            method: nginx's balancing directive.
            news: whether that is something new; if not, and if drift is only to be told, that is left to
                `verify`.

        Returns:
            The unix time of the next comparison.
        """
        if context.dry_run:
            return None
        if self._in_place and not news and not context.mend:
            return context.now + self._wait(context)
        applied = Applied(left=self._left)
        if self._trouble is None:
            try:
                with self._watching(context):
                    applied = self._driver.apply(servers, membership.down, method)
            except HandlerError as error:
                self._trouble = error
            self._note(servers, membership, applied)
        self._in_place = self._trouble is None and not applied.left
        if applied.changes:
            context.log.info("upstream.set", servers=len(servers), changes=len(applied.changes))
        self._keep_lagging(servers, membership, applied, context)
        self._leave(applied.left, context)
        if self._trouble is not None or self._left:
            context.reload()
        self._report(membership, context)
        return context.now + self._wait(context)

    def _note(self, servers: Sequence[Server], membership: Membership, applied: Applied) -> None:
        """What was just set says nothing new when it is listed."""
        for server in servers:
            verified = self._trouble is None and server.address not in applied.left
            state, weight = _setting(server, membership)
            self._states.set(server.address, state, verified=verified)
            self._weights.set(server.address, weight, verified=verified)

    def _keep_lagging(
        self, servers: Sequence[Server], membership: Membership, applied: Applied, context: Context
    ) -> None:
        """Keep how servers are listed that could not be set, in case agentd is restarted before they are."""
        before, was = Membership.load(context.store), context.store.get("lagging", {})
        listed = {server.address: _setting(server, before) for server in before.servers}
        context.store["lagging"] = {
            server.address: was.get(server.address) or list(listed[server.address])
            for server in servers
            if (self._trouble is not None or server.address in applied.left)
            and server.address in listed
            and (server.address in was or listed[server.address] != _setting(server, membership))
        }

    def _leave(self, left: Mapping[str, str], context: Context) -> None:
        reasons = sorted(set(left.values()) - set(self._left.values()))
        for reason in reasons:
            context.log.warning(
                "upstream.by_reload",
                servers=sorted(one for one in left if left[one] == reason),
                reason=reason,
            )
        self._left = dict(left)

    def _report(self, membership: Membership, context: Context) -> None:
        if isinstance(self._trouble, Unanswered) and self._stuck:
            context.store["stuck"] = {"workers": sorted(self._stuck), "reason": str(self._trouble)}
        else:
            context.store.pop("stuck", None)
        gauges = context.store.get("gauges", {})
        context.store["gauges"] = gauges | {"upstream_in_step": float(self._trouble is None)}
        parts = [
            *membership.status,
            *(
                {"part": address, "trouble": f"waits for a reload: {reason}"}
                for address, reason in self._left.items()
            ),
        ]
        if self._trouble is not None:
            parts.append({"part": f"load balancer {self._interface}", "trouble": str(self._trouble)})
        context.store["status"] = parts

    def _wait(self, context: Context) -> float:
        if self._trouble is None:
            if self._failures:
                context.log.info("upstream.in_step", failures=self._failures)
            self._failures = 0
            return self._sync
        if self._failures == 0:
            context.log.error(
                "upstream.out_of_step",
                interface=self._interface,
                reason=str(self._trouble),
                advice="agentd keeps trying; if this persists, look at the load balancer",
            )
        self._failures += 1
        if isinstance(self._trouble, PermanentError):  # asking again soon changes nothing
            return _LONGEST_WAIT
        return min(self._sync * 2.0 ** min(self._failures, _MOST_DOUBLINGS), _LONGEST_WAIT)

    # ------------------------------------------------------------------ whether it holds

    def verify(
        self,
        membership: Membership,
        chosen: Callable[[Membership], Sequence[Server]],
        context: Context,
        method: str = "",
    ) -> Verdict:
        """Ask whether the load balancer has what is committed, and set right what it has not.

        What an operator has set since the last look is no drift; it is left to be learnt. In a dry run, and
        where drift is only to be told, it is only compared.

        Args:
            membership: as committed.
            chosen: the servers that there should be, of a state.
            context: of this call.
            method: nginx's balancing directive.
        """
        place = f"load balancer {self._interface}"
        try:
            running = self._look(membership, context)
            self._recall(membership, context)
            wanted = self._wanted(running, membership, context)
            now = membership.operated(wanted.down, wanted.weights)
            with self._watching(context):
                only = context.dry_run or not context.mend
                act = self._driver.compare if only else self._driver.apply
                applied = act(chosen(now), now.down, method)
        except HandlerError as error:
            return Verdict(drift=(Drift(place, str(error)),))
        left = tuple(
            Drift(address, f"{reason}: reload nginx", reload=True) for address, reason in applied.left.items()
        )
        changes = tuple(Drift(place, change) for change in applied.changes)
        return Verdict(drift=left + changes) if only else Verdict(drift=left, mended=changes)


def _setting(server: Server, membership: Membership) -> tuple[str, int]:
    """How it is listed once it is set: its state, and its weight."""
    return membership.down.get(server.address, "down") if server.down else UP, server.weight

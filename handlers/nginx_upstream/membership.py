"""Which servers an upstream has: what is new joins at once, what is gone from Consul is judged first.

Nothing in Consul may empty an upstream or remove most of it at once; the operator may. Values only: the state
is kept in `context.store`, so that it is committed and rolled back with the rendered file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from handlers.nginx_upstream.server import Server, host_of, in_order

EMPTY: Final = "empty"
MIN_SERVERS: Final = "min_servers"
SHARE: Final = "share"
GUARDS: Final = (EMPTY, MIN_SERVERS, SHARE)
_MOST_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class RemovalLimits:
    """What the operator allows.

    Attributes:
        min_servers: a removal never leaves fewer.
        max_removed: percent of the servers that may be removed at once; one may always be.
        grace: seconds that a server must be missing before it is removed.
    """

    min_servers: int = 1
    max_removed: int = 50
    grace: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to the servers that are missing.

    Attributes:
        missing: address -> unix time since when, for all that are kept although they are missing.
        guard: which guard keeps them, "" if only the grace period does.
        reason: why, in a sentence.
        due: unix time at which the next of them is removed, or None.
    """

    missing: Mapping[str, float] = field(default_factory=dict)
    guard: str = ""
    reason: str = ""
    due: float | None = None


def judge(
    current: Collection[str],
    wanted: Collection[str],
    since: Mapping[str, float],
    now: float,
    limits: RemovalLimits,
) -> Verdict:
    """Judge the removal of the addresses that are in use and no longer fit.

    Args:
        current: the addresses in use now.
        wanted: the addresses that are fit.
        since: address -> unix time since which it is known to be missing.
        now: unix time.
        limits: the operator's.
    """
    # The clock may have been set back while agentd was down.
    missing = {address: min(since.get(address, now), now) for address in current if address not in wanted}
    if not missing:
        return Verdict()
    guard, reason = _guard(len(missing), len(set(current)), len(set(wanted)), limits)
    if guard:
        return Verdict(missing, guard, reason)
    stay = {address: at for address, at in missing.items() if at + limits.grace > now}
    return Verdict(stay, due=min(stay.values()) + limits.grace if stay else None)


def _guard(missing: int, current: int, wanted: int, limits: RemovalLimits) -> tuple[str, str]:
    """The first guard that forbids the removal, and why; ("", "") if none does."""
    if wanted < limits.min_servers:
        if wanted == 0:
            return EMPTY, f"no server is fit: the last {missing} that were fit are kept"
        return MIN_SERVERS, (
            f"{wanted} servers are fit, and min_servers is {limits.min_servers}:"
            f" the {missing} others are kept"
        )
    if missing > max(1, current * limits.max_removed // 100):
        return SHARE, (
            f"{missing} of {current} servers disappeared at once, more than max_removed"
            f" ({limits.max_removed} %): they are kept"
        )
    return "", ""


@dataclass(frozen=True, slots=True)
class Membership:
    """The servers of one upstream: fit, in use, missing, and taken down.

    Attributes:
        query: where `fit` is from, "" before the first state.
        fit: the servers that are fit, by Consul's latest answer.
        used: address -> server in use.
        missing: address -> unix time since which it is not fit, of those in use.
        down: address -> the state that an operator put it in ("down", "drain", "maint").
        weights: address -> the weight that an operator gave it, instead of Consul's.
        gone: address -> unix time since which it is not in use, of those with such a weight.
        guard: which guard keeps servers that are missing, "" if none.
        refused: what Consul lists and may not be a server -> why; no more than a person reads.
        refusals: how many there are of those.
    """

    query: str = ""
    fit: tuple[Server, ...] = ()
    used: Mapping[str, Server] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)
    down: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    gone: Mapping[str, float] = field(default_factory=dict)
    guard: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    refusals: int = 0

    @classmethod
    def load(cls, store: Mapping[str, Any]) -> Membership:
        """Read back what `save` wrote; an empty store gives an upstream without servers."""
        fit = tuple(Server.parse(line) for line in store.get("fit", ()))
        used = {server.address: server for server in map(Server.parse, store.get("used", ()))}
        return cls(
            store.get("query", ""),
            fit,
            used,
            store.get("missing", {}),
            store.get("down", {}),
            store.get("weights", {}),
            store.get("gone", {}),
            store.get("guard", ""),
            store.get("refused", {}),
            store.get("refusals", 0),
        )

    def save(self, store: MutableMapping[str, Any]) -> None:
        """Write it to the store, with its gauges."""
        store["query"] = self.query
        store["fit"] = [server.text() for server in self.fit]
        store["used"] = [server.text() for server in in_order(self.used.values())]
        store["missing"] = dict(self.missing)
        store["down"] = dict(self.down)
        store["weights"] = dict(self.weights)
        store["gone"] = dict(self.gone)
        store["guard"] = self.guard
        store["refused"] = dict(self.refused)
        store["refusals"] = self.refusals
        store["gauges"] = store.get("gauges", {}) | self.gauges()

    def gauges(self) -> dict[str, float]:
        """Name -> value, for the metrics."""
        taken = sum(address in self.used for address in self.down)
        return {
            "upstream_servers": len(self.used) - taken,
            "upstream_down": taken,
            "upstream_weighted": sum(address in self.used for address in self.weights),
            "upstream_missing": len(self.missing),
            "upstream_instances_refused": self.refusals,
        } | {f"upstream_held_{guard}": float(guard == self.guard) for guard in GUARDS}

    @property
    def status(self) -> list[dict[str, str]]:
        """What a person should know of it: what operators set, and what is refused."""
        parts = [{"part": f"{address}: {how}, by an operator"} for address, how in self.down.items()]
        parts += [
            {"part": f"{address}: weight {weight}, by an operator"}
            for address, weight in self.weights.items()
        ]
        if self.guard:
            parts.append({"part": f"guard {self.guard}", "trouble": self._held()})
        parts += [{"part": name, "trouble": f"refused: {reason}"} for name, reason in self.refused.items()]
        more = self.refusals - len(self.refused)
        return parts + [{"part": f"{more} more instances", "trouble": "refused"}] * (more > 0)

    def _held(self) -> str:
        held = [address for address in self.missing if address not in self.down]
        return (
            f"{len(held)} of {len(self.used)} servers stay in use, which Consul no longer has as fit;"
            " if they should go, fire the override event (docs/upstreams.md#guards)"
        )

    def found(self, query: str, servers: Iterable[Server], refused: Mapping[str, str]) -> Membership:
        """With the servers that the query finds fit now, and what it finds that may not be one.

        When the query is another than before, the operator has asked for other servers: no guard keeps the
        old ones, unless there are no new ones.
        """
        told = dict(list(refused.items())[:_MOST_TOLD])
        membership = replace(self, query=query, fit=tuple(servers), refused=told, refusals=len(refused))
        return membership.forced() if self.query not in ("", query) and membership.fit else membership

    def permitted(self, check: Callable[[str], object]) -> Membership:
        """Without those fit that `check` refuses by a ValueError: what is known may be from other rules."""
        refused = {}
        for server in self.fit:
            try:
                check(host_of(server.address))
            except ValueError as error:
                refused[f"server {server.address}"] = str(error)
        if not refused:
            return self
        fit = [server for server in self.fit if f"server {server.address}" not in refused]
        return self.found(self.query, fit, refused)

    def operated(self, down: Mapping[str, str], weights: Mapping[str, int]) -> Membership:
        """With what operators have set: who is down, and the weights that are not Consul's."""
        return replace(self, down=dict(sorted(down.items())), weights=dict(sorted(weights.items())))

    def judged(self, now: float, limits: RemovalLimits, keep_down: float) -> tuple[Membership, Verdict]:
        """Use all that is fit, and keep of the rest what must be kept; the verdict says why.

        A server that an operator took down serves no requests, so no guard counts it: it stays in the list,
        down, until it is fit again or `keep_down` seconds have passed. The weight that an operator gave to a
        server is remembered as long.
        """
        fit = {server.address: server for server in self.fit}
        serving = [address for address in self.used if address not in self.down]
        wanted = [one for one in fit if one not in self.down]
        if self.refused and not wanted:  # it is not known that nobody serves
            limits = replace(limits, min_servers=max(limits.min_servers, 1))
        verdict = judge(serving, wanted, self.missing, now, limits)
        parked = {
            address: min(self.missing.get(address, now), now)
            for address in self.down
            if address in self.used and address not in fit
        }
        kept = {address: at for address, at in parked.items() if at + keep_down > now}
        missing = {**verdict.missing, **kept}
        used = {address: self.used[address] for address in missing} | fit
        down = {address: how for address, how in self.down.items() if address in used}
        gone = {one: min(self.gone.get(one, now), now) for one in self.weights if one not in used}
        gone = {address: at for address, at in gone.items() if at + keep_down > now}
        weights = {
            address: one for address, one in self.weights.items() if address in used or address in gone
        }
        membership = replace(
            self,
            used=used,
            missing=missing,
            down=down,
            weights=weights,
            gone=gone,
            guard=verdict.guard,
        )
        dues = [at for at in (verdict.due, *(at + keep_down for at in kept.values())) if at is not None]
        return membership, replace(verdict, due=min(dues, default=None))

    def forced(self) -> Membership:
        """Without what is missing, whatever a guard says; what an operator took down stays down."""
        fit = {server.address: server for server in self.fit}
        parked = {address: self.used[address] for address in self.down if address in self.used}
        missing = {address: at for address, at in self.missing.items() if address in parked}
        return replace(self, used=parked | fit, missing=missing, guard="")

    @property
    def servers(self) -> list[Server]:
        """Those in use, in order, as operators set them: down, or with another weight than Consul's."""
        return in_order(
            replace(
                server,
                down=server.address in self.down,
                weight=self.weights.get(server.address, server.weight),
            )
            for server in self.used.values()
        )

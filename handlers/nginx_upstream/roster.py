"""What one upstream's handler remembers: who is fit, who is in use, who is missing, who was taken down.

Values only; it lives in `context.store`, so that it is committed and rolled back with the rendered file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from handlers.nginx_upstream.guards import GUARDS, Limits, Verdict, judge
from handlers.nginx_upstream.servers import Server, in_order


@dataclass(frozen=True, slots=True)
class Roster:
    """One upstream's servers.

    Attributes:
        query: where `fit` is from, "" before the first state.
        fit: the servers that are fit, as Consul said last.
        used: address -> server in use.
        missing: address -> unix time since which it is not fit, of those in use.
        down: address -> what an operator made of it ("down", "drain", "maint").
        guard: which guard holds servers that are missing, "" if none.
    """

    query: str = ""
    fit: tuple[Server, ...] = ()
    used: Mapping[str, Server] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)
    down: Mapping[str, str] = field(default_factory=dict)
    guard: str = ""

    @classmethod
    def load(cls, store: Mapping[str, Any]) -> Roster:
        """Read back what `save` wrote; an empty store is an empty roster."""
        fit = tuple(Server.parse(line) for line in store.get("fit", ()))
        used = {server.address: server for server in map(Server.parse, store.get("used", ()))}
        return cls(
            store.get("query", ""),
            fit,
            used,
            store.get("missing", {}),
            store.get("down", {}),
            store.get("guard", ""),
        )

    def save(self, store: MutableMapping[str, Any]) -> None:
        """Put it into the store, with what the metrics show."""
        store["query"] = self.query
        store["fit"] = [server.text() for server in self.fit]
        store["used"] = [server.text() for server in in_order(self.used.values())]
        store["missing"] = dict(self.missing)
        store["down"] = dict(self.down)
        store["guard"] = self.guard
        store["gauges"] = store.get("gauges", {}) | self.gauges()

    def gauges(self) -> dict[str, float]:
        """What the metrics show."""
        taken = sum(address in self.used for address in self.down)
        return {
            "upstream_servers": len(self.used) - taken,
            "upstream_down": taken,
            "upstream_missing": len(self.missing),
        } | {f"upstream_held_{guard}": float(guard == self.guard) for guard in GUARDS}

    def found(self, query: str, servers: Iterable[Server]) -> Roster:
        """With what the query finds fit now.

        Another query than before is the operator's wish for other servers: no guard keeps the old ones,
        unless there are no new ones.
        """
        roster = replace(self, query=query, fit=tuple(servers))
        return roster.forced() if self.query not in ("", query) and roster.fit else roster

    def taken(self, down: Mapping[str, str]) -> Roster:
        """With these servers taken down by operators."""
        return replace(self, down=dict(sorted(down.items())))

    def judged(self, now: float, limits: Limits, keep_down: float) -> tuple[Roster, Verdict]:
        """What is in use now: all that is fit, and of what is not what must stay; and why that stays.

        A server that an operator took down serves nobody, so that no guard counts it: it stays in the list,
        down, until it is fit again or `keep_down` seconds are over.
        """
        fit = {server.address: server for server in self.fit}
        serving = [address for address in self.used if address not in self.down]
        verdict = judge(serving, [one for one in fit if one not in self.down], self.missing, now, limits)
        parked = {
            address: self.missing.get(address, now)
            for address in self.down
            if address in self.used and address not in fit
        }
        kept = {address: at for address, at in parked.items() if at + keep_down > now}
        missing = {**verdict.missing, **kept}
        used = {address: self.used[address] for address in missing} | fit
        down = {address: how for address, how in self.down.items() if address in used}
        roster = replace(self, used=used, missing=missing, down=down, guard=verdict.guard)
        dues = [at for at in (verdict.due, *(at + keep_down for at in kept.values())) if at is not None]
        return roster, replace(verdict, due=min(dues, default=None))

    def forced(self) -> Roster:
        """All that is missing goes, whatever a guard says; what an operator took down stays down."""
        fit = {server.address: server for server in self.fit}
        parked = {address: self.used[address] for address in self.down if address in self.used}
        missing = {address: at for address, at in self.missing.items() if address in parked}
        return replace(self, used=parked | fit, missing=missing, guard="")

    @property
    def servers(self) -> list[Server]:
        """What is in use, in order, with what operators took down marked."""
        return in_order(replace(server, down=server.address in self.down) for server in self.used.values())

"""What can be watched: the types that `consul watch` has, one class each.

`str(query)` is its identity, label in logs and key of deduplication. A change's `raw` is what `consul watch`
would hand its handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

from agentd.watch import shapes
from agentd.watch.changes import (
    Change,
    ChecksState,
    Event,
    Json,
    KeyPrefixState,
    KeyState,
    NodesState,
    ServicesState,
    ServiceState,
    lamport_time,
)
from agentd.watch.known_items import KnownItems
from agentd.watch.parsing import Odd
from agentd.watch.query import Query, Right, Snapshot, Source, note

_ALL_NODES: Final[Right] = ("node", "read", "")


@dataclass(frozen=True)
class EventQuery(Query):
    """All user events, unfiltered: they share one ring, and only all together show that it overflowed."""

    kind = Event
    loses_without = False
    may_be_stale = False
    #: https://developer.hashicorp.com/consul/api-docs/event#list-events
    path = "/v1/event/list"
    needs = (("event", "read", ""),)

    def _sound(self, raw: Json, odd: dict[str, Odd]) -> Json:
        """The events that can be used; of several with one ID the first."""
        sound: dict[str, Json] = {}
        for item in raw:
            reason = shapes.misfit(item, shapes.EVENT)
            if reason or item["ID"] in sound:
                note(odd, item, reason or "ID", lamport_time(item))
            else:
                sound[item["ID"]] = item
        return list(sound.values())

    def _changes(self, raw: Json, index: int) -> Sequence[Change]:
        return _Events(str(self), raw or [], index)


class _Events(Sequence[Event]):
    """The ring as events, each created when it is used: all but the newest of the 256 are known already."""

    def __init__(self, query: str, raw: list[Json], index: int) -> None:
        self._query = query
        self._raw = raw
        self._index = index

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, at: int) -> Event: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Event]: ...

    def __getitem__(self, at: int | slice) -> Event | Sequence[Event]:
        if isinstance(at, slice):
            return _Events(self._query, self._raw[at], self._index)
        return Event(self._query, self._raw[at], self._index)


@dataclass(frozen=True)
class ServiceQuery(Query):
    """The instances of one service.

    Args:
        service: its name.
        tag: only instances with it.
        passing: only instances whose checks all pass.
        near: sort by round trip from this node; "_agent" is the local one.
        filter: an expression of Consul's (https://developer.hashicorp.com/consul/api-docs/features/filtering).
        stale: let any server answer, if the client allows it too.
    """

    service: str
    tag: str | None = None
    passing: bool = True
    near: str | None = None
    filter: str | None = None
    stale: bool = True

    kind = ServiceState
    itemized = True

    def fetch(
        self,
        source: Source,
        index: int = 0,
        *,
        fresh: bool = False,
        consistent: bool = False,
        wait: float | None = None,
        known: KnownItems | None = None,
    ) -> Snapshot:
        """Ask once, as `Query.fetch` does."""
        fresh = fresh or not self.stale
        return super().fetch(source, index, fresh=fresh, consistent=consistent, wait=wait, known=known)

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service."""
        return f"/v1/health/service/{self.service}"

    @property
    def params(self) -> tuple[tuple[str, str], ...]:
        """The choices that Consul makes for us."""
        given = (("tag", self.tag), ("near", self.near), ("filter", self.filter))
        passing = (("passing", "1"),) if self.passing else ()
        return (*((name, value) for name, value in given if value), *passing)

    @property
    def needs(self) -> tuple[Right, ...]:
        """The service, and the nodes that its instances are on."""
        return (("service", "read", self.service), _ALL_NODES)

    def _misfit(self, item: Json) -> str:
        return shapes.misfit_instance(item)


@dataclass(frozen=True)
class KeyQuery(Query):
    """One key of the KV store.

    Raises:
        ValueError: the key is empty or begins with a slash.
    """

    key: str

    kind = KeyState
    may_be_stale = False

    def __post_init__(self) -> None:
        if not self.key or self.key.startswith("/"):
            raise ValueError("a key must not be empty or begin with a slash")

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/kv#read-key."""
        return f"/v1/kv/{self.key}"

    @property
    def needs(self) -> tuple[Right, ...]:
        """The key."""
        return (("key", "read", self.key),)

    def _changes(self, raw: Json, index: int) -> Sequence[Change]:
        return (KeyState(str(self), _pair(raw[0]) if raw else None, index),)

    def _misfit(self, item: Json) -> str:
        return shapes.misfit(item, shapes.PAIR)


@dataclass(frozen=True)
class KeyPrefixQuery(Query):
    """All keys that begin with a prefix; "" means every key.

    Raises:
        ValueError: the prefix begins with a slash.
    """

    prefix: str

    kind = KeyPrefixState
    itemized = True
    may_be_stale = False
    params = (("recurse", ""),)

    def __post_init__(self) -> None:
        if self.prefix.startswith("/"):
            raise ValueError("a key prefix must not begin with a slash")

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/kv#read-key."""
        return f"/v1/kv/{self.prefix}"

    @property
    def needs(self) -> tuple[Right, ...]:
        """Every key below the prefix."""
        return (("key", "read", self.prefix),)

    def _changes(self, raw: Json, index: int) -> Sequence[Change]:
        return (KeyPrefixState(str(self), [*map(_pair, raw)] if raw else None, index),)

    def _item(self, item: Json) -> Json:
        return _pair(item)

    def _misfit(self, item: Json) -> str:
        return shapes.misfit(item, shapes.PAIR)


def _pair(raw: Json) -> Json:
    """A pair as `consul watch` prints it: with a Session even where the HTTP API leaves an empty one out."""
    return {"Session": "", **raw}


@dataclass(frozen=True)
class ServicesQuery(Query):
    """The names of all services, with their tags."""

    kind = ServicesState
    shape = dict
    #: https://developer.hashicorp.com/consul/api-docs/catalog#list-services
    path = "/v1/catalog/services"
    needs = (("service", "read", ""),)

    def _sound(self, raw: Json, odd: dict[str, Odd]) -> Json:
        """The services whose name and tags can be used."""
        sound = {}
        for name, tags in raw.items():
            if reason := shapes.misfit_service(name, tags):
                note(odd, {name: tags}, reason)
            else:
                sound[name] = tags
        return sound

    def _changes(self, raw: Json, index: int) -> Sequence[Change]:
        # Consul lists the tags in another order each time (a Go map's); unsorted, equal answers would differ.
        tags = {name: sorted(found or ()) for name, found in (raw or {}).items()}
        return (ServicesState(str(self), tags, index),)


@dataclass(frozen=True)
class NodesQuery(Query):
    """All nodes."""

    kind = NodesState
    itemized = True
    #: https://developer.hashicorp.com/consul/api-docs/catalog#list-nodes
    path = "/v1/catalog/nodes"
    needs = (_ALL_NODES,)

    def _misfit(self, item: Json) -> str:
        return shapes.misfit(item, shapes.NODE)


@dataclass(frozen=True, kw_only=True)
class ChecksQuery(Query):
    """Health checks: of one service, or in one state ("any", "passing", "warning", "critical").

    Raises:
        ValueError: both are given.
    """

    service: str | None = None
    state: str | None = None

    kind = ChecksState
    itemized = True

    def __post_init__(self) -> None:
        if self.service and self.state:
            raise ValueError("give a service or a state, not both")

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/health."""
        return (
            f"/v1/health/checks/{self.service}" if self.service else f"/v1/health/state/{self.state or 'any'}"
        )

    @property
    def needs(self) -> tuple[Right, ...]:
        """The service's checks are the service's; those of nodes are the nodes'."""
        return (("service", "read", self.service or ""), _ALL_NODES)

    def _misfit(self, item: Json) -> str:
        return shapes.misfit(item, shapes.CHECK)

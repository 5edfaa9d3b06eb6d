"""What can be watched: the types that `consul watch` has, one class each.

`str(query)` is its identity, label in logs and key of deduplication. A change's `raw` is what `consul watch`
would hand its handler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.errors import ConsulUnavailable
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
)
from agentd.watch.query import Query, Right, Snapshot, Source

__all__ = [
    "ChecksQuery",
    "EventQuery",
    "KeyPrefixQuery",
    "KeyQuery",
    "NodesQuery",
    "Query",
    "Right",
    "ServiceQuery",
    "ServicesQuery",
    "Snapshot",
    "Source",
]

_ALL_NODES: Final[Right] = ("node", "read", "")
_ALL_SERVICES: Final[Right] = ("service", "read", "")


@dataclass(frozen=True)
class EventQuery(Query):
    """All user events, unfiltered: they share one ring, and only all together show that it overflowed."""

    kind = Event
    may_be_stale = False

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/event#list-events."""
        return "/v1/event/list"

    @property
    def needs(self) -> tuple[Right, ...]:
        """To read events of every name."""
        return (("event", "read", ""),)

    def _changes(self, raw: Json, index: int) -> tuple[Change, ...]:
        if any(not isinstance(one, dict) or not one.get("ID") for one in raw or ()):
            raise ConsulUnavailable("the event list has an entry without ID: correct consul.address")
        name = str(self)
        return tuple(Event(name, one, index) for one in raw or ())


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

    def fetch(self, source: Source, index: int = 0, *, fresh: bool = False) -> Snapshot:
        """Ask once, as `Query.fetch` does."""
        return super().fetch(source, index, fresh=fresh or not self.stale)

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
            raise ValueError("a key is not empty and does not begin with a slash")

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/kv#read-key."""
        return f"/v1/kv/{self.key}"

    @property
    def needs(self) -> tuple[Right, ...]:
        """The key."""
        return (("key", "read", self.key),)

    def _changes(self, raw: Json, index: int) -> tuple[Change, ...]:
        return (KeyState(str(self), _pair(raw[0]) if raw else None, index),)


@dataclass(frozen=True)
class KeyPrefixQuery(Query):
    """All keys that begin with a prefix; "" means every key.

    Raises:
        ValueError: the prefix begins with a slash.
    """

    prefix: str

    kind = KeyPrefixState
    may_be_stale = False

    def __post_init__(self) -> None:
        if self.prefix.startswith("/"):
            raise ValueError("a key prefix does not begin with a slash")

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/kv#read-key."""
        return f"/v1/kv/{self.prefix}"

    @property
    def params(self) -> tuple[tuple[str, str], ...]:
        """All below."""
        return (("recurse", ""),)

    @property
    def needs(self) -> tuple[Right, ...]:
        """Every key below the prefix."""
        return (("key", "read", self.prefix),)

    def _changes(self, raw: Json, index: int) -> tuple[Change, ...]:
        return (KeyPrefixState(str(self), [_pair(pair) for pair in raw] if raw else None, index),)


def _pair(raw: Json) -> Json:
    """A pair as `consul watch` prints it: with a Session even where the HTTP API leaves an empty one out."""
    return {"Session": "", **raw}


@dataclass(frozen=True)
class ServicesQuery(Query):
    """The names of all services, with their tags."""

    kind = ServicesState
    shape = dict

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/catalog#list-services."""
        return "/v1/catalog/services"

    @property
    def needs(self) -> tuple[Right, ...]:
        """Every service."""
        return (_ALL_SERVICES,)

    def _changes(self, raw: Json, index: int) -> tuple[Change, ...]:
        # Consul lists the tags in another order each time (a Go map's); unsorted, equal answers would differ.
        tags = {name: sorted(found or ()) for name, found in (raw or {}).items()}
        return (ServicesState(str(self), tags, index),)


@dataclass(frozen=True)
class NodesQuery(Query):
    """All nodes."""

    kind = NodesState

    @property
    def path(self) -> str:
        """https://developer.hashicorp.com/consul/api-docs/catalog#list-nodes."""
        return "/v1/catalog/nodes"

    @property
    def needs(self) -> tuple[Right, ...]:
        """Every node."""
        return (_ALL_NODES,)


@dataclass(frozen=True, kw_only=True)
class ChecksQuery(Query):
    """Health checks: of one service, or in one state ("any", "passing", "warning", "critical").

    Raises:
        ValueError: both are given.
    """

    service: str | None = None
    state: str | None = None

    kind = ChecksState

    def __post_init__(self) -> None:
        if self.service and self.state:
            raise ValueError("checks of a service, or checks in a state: not both")

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

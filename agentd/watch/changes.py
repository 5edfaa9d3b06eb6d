"""What a query yields: frozen values that say what is, and never how it was learnt.

Each change keeps `raw`, the JSON value as Consul answered it, so that it can be written to the journal,
read back, and handed to programs that were written for `consul watch`. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

Json = Any  # None, bool, int, float, str, list or dict, as `json.loads` returns it


def digest(raw: Json) -> str:
    """SHA-256 of the canonical JSON of `raw`, as 64 hex digits: equal values, equal digests."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as a handler receives it.

    Attributes:
        query: `str()` of the query that yielded it, such as "event" or "service:web".
        raw: the JSON value as Consul answered it (an event: one object; a state: the whole answer).
        index: X-Consul-Index of the answer; for events an opaque number, to be compared for equality only.
    """

    kind: ClassVar[str]
    query: str
    raw: Json = field(repr=False)
    index: int = field(default=0, compare=False)

    @property
    def id(self) -> str:
        """What tells this change from every other of its query, at most 64 characters."""
        return f"{digest(self.raw)[:16]}@{self.index}"

    @property
    def digest(self) -> str:
        """Equal for equal content, whatever the index."""
        return digest(self.raw)


@dataclass(frozen=True, slots=True)
class Event(Change):
    """A user event (https://developer.hashicorp.com/consul/api-docs/event). A hint: gossip may lose it."""

    kind: ClassVar[str] = "event"

    @property
    def id(self) -> str:
        """The UUID that the firing agent gave it."""
        return str(self.raw["ID"])

    @property
    def name(self) -> str:
        """The event's name, by which handlers choose."""
        return str(self.raw["Name"])

    @property
    def payload(self) -> bytes:
        """What was fired, at most 512 bytes; whoever fired it chose every one of them."""
        return base64.b64decode(self.raw.get("Payload") or "")

    @property
    def ltime(self) -> int:
        """Lamport time: orders events of one cluster, with the ID to break ties."""
        return int(self.raw.get("LTime") or 0)


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service, with the worst status of its checks.

    Attributes:
        status: "passing", "warning" or "critical".
        weight: Consul's service weight for that status (1 where none is set).
    """

    id: str
    node: str
    address: str
    port: int
    status: str
    weight: int = 1
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()


_WORST: Final = {"passing": 0, "warning": 1, "critical": 2, "maintenance": 3}


@dataclass(frozen=True, slots=True)
class ServiceState(Change):
    """All instances of one service, as `/v1/health/service/NAME` answers."""

    kind: ClassVar[str] = "service"

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances, sorted by address and port, so that an unchanged set stays unchanged."""
        return tuple(
            sorted((_instance(entry) for entry in self.raw), key=lambda i: (i.address, i.port, i.id))
        )


def _instance(entry: Json) -> Instance:
    service = entry["Service"]
    status = max((check["Status"] for check in entry.get("Checks") or []), key=_rank, default="passing")
    weights = service.get("Weights") or {}
    return Instance(
        id=service["ID"],
        node=entry["Node"]["Node"],
        address=service.get("Address") or entry["Node"]["Address"],
        port=int(service.get("Port") or 0),
        status=status,
        weight=int(weights.get("Warning" if status == "warning" else "Passing", 1)),
        tags=tuple(service.get("Tags") or ()),
        meta=tuple(sorted((service.get("Meta") or {}).items())),
    )


def _rank(status: str) -> int:
    return _WORST.get(status, 2)


@dataclass(frozen=True, slots=True)
class KeyState(Change):
    """One key of the KV store; `raw` is None when the key was deleted."""

    kind: ClassVar[str] = "key"

    @property
    def value(self) -> bytes | None:
        """The value, or None when there is no such key (an empty value is b"")."""
        return None if self.raw is None else base64.b64decode(self.raw.get("Value") or "")


@dataclass(frozen=True, slots=True)
class KeyPrefixState(Change):
    """All keys below a prefix."""

    kind: ClassVar[str] = "keyprefix"

    @property
    def values(self) -> dict[str, bytes]:
        """Full key -> value, sorted by key."""
        pairs = sorted(self.raw or [], key=lambda pair: str(pair["Key"]))
        return {pair["Key"]: base64.b64decode(pair.get("Value") or "") for pair in pairs}


@dataclass(frozen=True, slots=True)
class ServicesState(Change):
    """The catalogue's services: `raw` maps a service's name to its tags."""

    kind: ClassVar[str] = "services"


@dataclass(frozen=True, slots=True)
class NodesState(Change):
    """The catalogue's nodes, as `/v1/catalog/nodes` answers."""

    kind: ClassVar[str] = "nodes"


@dataclass(frozen=True, slots=True)
class ChecksState(Change):
    """Health checks, of one service or in one state."""

    kind: ClassVar[str] = "checks"


@dataclass(frozen=True, slots=True)
class Notification(Change):
    """Told to a handler named in `notify` once a commit changed something.

    `raw` is {"id": str, "generation": int, "by": handler, "paths": [changed path, ...], "rollback": bool}.
    """

    kind: ClassVar[str] = "notification"

    @property
    def id(self) -> str:
        """Unique among the notifications of this node."""
        return str(self.raw["id"])

    @property
    def generation(self) -> int:
        """The generation that is now current."""
        return int(self.raw["generation"])

    @property
    def rollback(self) -> bool:
        """Whether an earlier generation was made current again."""
        return bool(self.raw.get("rollback"))


@dataclass(frozen=True, slots=True)
class Timer(Change):
    """Timed work that was due; `raw` is {"at": unix seconds}."""

    kind: ClassVar[str] = "timer"

    @property
    def id(self) -> str:
        """Unique for one handler, which does one thing at a time."""
        return f"timer-{self.raw['at']:.6f}"


KINDS: Final[dict[str, type[Change]]] = {
    kind.kind: kind
    for kind in (
        Event, ServiceState, KeyState, KeyPrefixState, ServicesState, NodesState, ChecksState,
        Notification, Timer,
    )
}  # fmt: skip

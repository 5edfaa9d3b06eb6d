"""What a query yields: frozen values that say what is the case, never how that was learnt.

Each change keeps `raw`, the JSON value as Consul answered it, so that it can be written to the journal,
read back, and handed to programs that were written for `consul watch`. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias

from agentd.errors import PermanentError
from agentd.watch.shapes import is_base64, is_number

Json = Any  # None, bool, int, float, str, list or dict, as `json.loads` returns it
_NOTHING: Final = ("null", "[]", "{}")
LOG_EPOCH: Final = 1 << 40
"""The epoch of messages of the fleet's log: above that of any event that was only heard."""
LOG: Final = "log:"
"""What the query of a message begins with; its name follows."""
Order: TypeAlias = tuple[int, int, str]
"""Epoch, time within it, and an ID to break ties; compare two to know which is newer."""


def canonical(raw: Json) -> str:
    """The canonical JSON of `raw`: equal values, equal texts."""
    return json.dumps(raw, sort_keys=True, separators=(",", ":"))


def digest_of(text: str) -> str:
    """SHA-256 of canonical JSON, as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(raw: Json) -> str:
    """The same of a value."""
    return digest_of(canonical(raw))


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as a handler receives it.

    Attributes:
        query: `str()` of the query that yielded it, such as "event" or "service:web".
        raw: the JSON value as Consul answered it (an event: one object; a state: the whole answer).
        index: X-Consul-Index of the answer; for events an opaque number, to be compared for equality only.
        epoch: of Consul's history, counted on this node: it grows when Consul's data is lost, and its Lamport
            times and indexes begin again. What has a higher one is newer, whatever its time or index.
    """

    kind: ClassVar[str]
    query: str
    raw: Json = field(repr=False)
    index: int = field(default=0, compare=False)
    epoch: int = field(default=0, compare=False)
    _text: str = field(default="", init=False, repr=False, compare=False)
    _digest: str = field(default="", init=False, repr=False, compare=False)

    @classmethod
    def of_text(cls, query: str, text: str, index: int = 0, epoch: int = 0) -> Self:
        """The change whose `raw` is written in canonical JSON, which is parsed when somebody asks for it."""
        made = cls(query, None, index, epoch)
        object.__setattr__(made, "_text", text)
        object.__delattr__(made, "raw")
        return made

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Json:
            """Of `of_text`, whose `raw` is not there yet."""
            if name != "raw":
                raise AttributeError(name)
            raw = json.loads(self._text)
            object.__setattr__(self, "raw", raw)
            return raw

    def at_epoch(self, epoch: int) -> Self:
        """The same state in another epoch."""
        made = type(self).of_text(self.query, self.text, self.index, epoch)
        object.__setattr__(made, "_digest", self.digest)
        return made

    @property
    def text(self) -> str:
        """The canonical JSON of `raw`."""
        if not self._text:  # made once: slow for a service of 1,000 instances
            object.__setattr__(self, "_text", canonical(self.raw))
        return self._text

    @property
    def empty(self) -> bool:
        """Whether there is nothing: no key, no instance."""
        return self.text in _NOTHING

    @property
    def id(self) -> str:
        """What distinguishes this change from all others of its query, at most 64 characters."""
        return f"{self.digest[:16]}@{self.index}"

    @property
    def digest(self) -> str:
        """Equal for equal content, whatever the index."""
        if not self._digest:
            object.__setattr__(self, "_digest", digest_of(self.text))
        return self._digest


@dataclass(frozen=True, slots=True)
class Message:
    """What the fleet's log says of an event that came through it.

    Attributes:
        num: its number: it orders the messages of one name, and is never judged by a clock.
        issued: unix time by the clock of whoever wrote it.
        counts_from: unix time from which a time to live counts. On a node that follows the log, the later of
            `issued` and its own first sight of the message, less the time by which that was written late; on
            one that catches up, `issued`.
        publisher: who wrote it, by its own account.
        via: how it came into the log: "event", "publish" or "again".
        expires: unix time after which it must not be applied, or None.
        snapshot: whether it stands for all messages before it.
        targeted: whether it is for some nodes only.
        replayed: whether somebody had it handled once more (`agentd replay`), rather than the log.
        rollout: the ID of the rollout to which it belongs; "" if it belongs to none.
        restores: the number of the message whose payload it brings back, if it aborts a rollout; otherwise 0.
    """

    num: int
    issued: float
    counts_from: float
    publisher: str = ""
    via: str = ""
    expires: float | None = None
    snapshot: bool = False
    targeted: bool = False
    replayed: bool = False
    rollout: str = ""
    restores: int = 0

    @classmethod
    def of(cls, raw: Mapping[str, Json]) -> Message:
        """Read what `raw` wrote."""
        return cls(
            num=int(raw["num"]),
            issued=float(raw["issued"]),
            counts_from=float(raw["from"]),
            publisher=str(raw.get("publisher") or ""),
            via=str(raw.get("via") or ""),
            expires=None if raw.get("expires") is None else float(raw["expires"]),
            snapshot=bool(raw.get("snapshot")),
            targeted=bool(raw.get("targeted")),
            replayed=bool(raw.get("replayed")),
            rollout=str(raw.get("rollout") or ""),
            restores=int(raw.get("restores") or 0),
        )

    @property
    def raw(self) -> dict[str, Json]:
        """As the key "Message" of an event's `raw`."""
        optional = {
            "expires": self.expires,
            "snapshot": self.snapshot or None,
            "targeted": self.targeted or None,
            "replayed": self.replayed or None,
            "rollout": self.rollout or None,
            "restores": self.restores or None,
        }
        return {
            "num": self.num,
            "issued": self.issued,
            "from": self.counts_from,
            "publisher": self.publisher,
            "via": self.via,
        } | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Event(Change):
    """A user event (https://developer.hashicorp.com/consul/api-docs/event), or a message of the fleet's log.

    One that was only heard is a hint: gossip may lose it.

    Attributes:
        undated: it was in Consul's ring before anything says when: this node, or this handler of it, has no
            memory of that time. Events have no time stamp, so it may be a second old, or weeks. What is to
            hold for a limited time has to count as over.
    """

    kind: ClassVar[str] = "event"
    undated: bool = field(default=False, compare=False)

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
        """What was fired, at most 512 bytes; whoever fired it chose every one of them.

        Raises:
            PermanentError: Consul does not answer with base64; or the payload is sealed, and was not opened.
        """
        if self.sealed is not None:
            raise PermanentError("the payload is sealed, and only the running agentd opens it")
        text = self.raw.get("Payload") or ""
        if not is_base64(text):
            raise PermanentError("the event's payload is not base64: fire it again through Consul's API")
        return base64.b64decode(text)

    @property
    def sealed(self) -> str | None:
        """The message of the fleet's log that has the payload, encrypted; None if the payload is in clear."""
        found = self.raw.get("Sealed") if self.query.startswith(LOG) else None
        return found if isinstance(found, str) else None

    def opened(self, payload: bytes) -> Event:
        """The same with the payload that was sealed; this one must not be stored."""
        raw = {name: one for name, one in self.raw.items() if name != "Sealed"}
        return replace(self, raw=raw | {"Payload": base64.b64encode(payload).decode()})

    @property
    def ltime(self) -> int:
        """Lamport time: orders the events of one epoch, with the ID to break ties."""
        return lamport_time(self.raw)

    @property
    def message(self) -> Message | None:
        """What the fleet's log says of it; None for an event that was only heard."""
        found = self.raw.get("Message") if self.query.startswith(LOG) else None
        return None if found is None else Message.of(found)

    @property
    def provisional(self) -> bool:
        """Whether it was heard while the fleet's log could not be reached, which may place it anew."""
        return self.raw.get("Provisional") is True

    def again(self, now: float) -> Event:
        """The same, as of `now` (unix seconds): it has an age, and its time to live begins anew."""
        message = self.message
        if message is None:
            return replace(self, undated=False)
        fresh = replace(message, counts_from=now, expires=None, replayed=True)
        return replace(self, raw=self.raw | {"Message": fresh.raw}, undated=False)

    @property
    def order(self) -> Order:
        """Its place among all events: the same on every node that saw the same epochs.

        A message comes after whatever was only heard.
        """
        message = self.message
        return (LOG_EPOCH, message.num, self.id) if message else (self.epoch, self.ltime, self.id)


def lamport_time(event: Json) -> int:
    """Of an event as Consul lists it; 0 if it has none, so that it holds up no other."""
    found = event.get("LTime") if isinstance(event, Mapping) else None
    return found if is_number(found) and isinstance(found, int) else 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service.

    Attributes:
        address: the service's own, else its node's; an IP address or a name, as it was registered.
        port: of several named ones the default; 0 if none was registered.
        status: of its worst check: "passing", "warning", "critical" or "maintenance".
        weight: Consul's service weight for that status (1 where none is set).
        tags: sorted.
        meta: of the service, sorted by name.
        ports: name -> port, sorted by name, of a service with several (Consul 1.22).
    """

    id: str
    node: str
    address: str
    port: int
    status: str
    weight: int = 1
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    ports: tuple[tuple[str, int], ...] = ()

    def port_named(self, name: str) -> int:
        """The port of that name; for "" the default one.

        Raises:
            ValueError: there is none.
        """
        if not name and self.port:
            return self.port
        for known, port in self.ports:
            if known == name:
                return port
        names = ", ".join(known for known, _ in self.ports)
        if name:
            has = f"its ports are {names}" if names else "its ports have no names"
            raise ValueError(f"it has no port named {name!r}: {has}")
        if names:
            raise ValueError(f"none of its ports is the default: choose one of {names}")
        raise ValueError("it has no port")


@dataclass(frozen=True, slots=True)
class ServiceState(Change):
    """All instances of one service, as `/v1/health/service/NAME` answers."""

    kind: ClassVar[str] = "service"

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances, IPv4 before IPv6 before names, so that an unchanged set stays unchanged."""
        return tuple(sorted(map(_instance, self.raw), key=_by_address))


def _instance(entry: Json) -> Instance:
    """Read one element of a health answer: https://developer.hashicorp.com/consul/api-docs/health."""
    node, service = entry["Node"], entry["Service"]
    status = _status(entry.get("Checks") or ())
    weights = service.get("Weights") or {}
    listed = service.get("Ports") or ()
    ports = [port for port in listed if isinstance(port, Mapping) and _is_port(port)] if listed else []
    tags, meta = service.get("Tags"), service.get("Meta")
    return Instance(
        id=str(service.get("ID") or ""),
        node=node["Node"],
        address=str(service.get("Address") or node.get("Address") or ""),
        port=int(service.get("Port") or _default_port(ports)),
        status=status,
        weight=int(weights.get("Warning" if status == "warning" else "Passing", 1)),
        tags=tuple(sorted(tags)) if tags else (),
        meta=tuple(sorted(meta.items())) if meta else (),
        ports=tuple(sorted((port["Name"], port["Port"]) for port in ports if port.get("Name")))
        if ports
        else (),
    )


def _is_port(port: Mapping[str, Json]) -> bool:
    """Whether an element of `Ports` can be read; a name is not needed for the default one."""
    return type(port.get("Port")) is int and isinstance(port.get("Name") or "", str)


def _default_port(ports: Iterable[Mapping[str, Json]]) -> int:
    """The port of a service with several named ones (Consul 1.22), whose `Port` is 0."""
    return next((port["Port"] for port in ports if port.get("Default") is True), 0)


def _status(checks: Iterable[Mapping[str, str]]) -> str:
    """The worst status; one that is unknown here counts as critical."""
    found = {"maintenance" if _is_maintenance(check) else check["Status"] for check in checks}
    if "maintenance" in found:
        return "maintenance"
    if found - {"passing", "warning"}:
        return "critical"
    return "warning" if "warning" in found else "passing"


def _is_maintenance(check: Mapping[str, str]) -> bool:
    """Whether the check is the critical one that `consul maint` registers."""
    return check.get("CheckID", "").startswith(("_node_maintenance", "_service_maintenance:"))


def _by_address(instance: Instance) -> tuple[int, int, str, int, str, str]:
    """Sort key: addresses by number, names after them."""
    if (packed := packed_ipv4(instance.address)) is not None:
        return 4, int.from_bytes(packed, "big"), "", instance.port, instance.node, instance.id
    try:
        address = ipaddress.ip_address(instance.address)
    except ValueError:
        return 7, 0, instance.address, instance.port, instance.node, instance.id
    return address.version, int(address), "", instance.port, instance.node, instance.id


def packed_ipv4(text: str) -> bytes | None:
    """The address in 4 bytes, if it is one of IPv4 in dotted decimal; 20 times as fast as `ipaddress`."""
    try:
        return socket.inet_pton(socket.AF_INET, text)
    except (OSError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class KeyState(Change):
    """One key of the KV store; `raw` is None when the key was deleted."""

    kind: ClassVar[str] = "key"

    @property
    def value(self) -> bytes | None:
        """The value, or None when there is no such key (an empty value is b"")."""
        return None if self.raw is None else base64.b64decode(self.raw.get("Value") or "")

    @property
    def order(self) -> Order:
        """Its place among the values of all keys; of a deleted one, that of no time."""
        raw = self.raw or {}
        return self.epoch, int(raw.get("ModifyIndex") or 0), str(raw.get("Key") or "")


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
    """Given to a handler named in `notify` once a commit has changed something.

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

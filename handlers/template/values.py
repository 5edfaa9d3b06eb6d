"""What templates see of Consul's states: plain, read-only objects with the attributes that users expect.

They are made from the JSON as Consul answered it. What they hold was chosen by whoever registered a service
or wrote a key; whether it may be printed is decided in `escaping`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from agentd.watch.changes import ServiceState

Json = Any  # None, bool, int, float, str, list or dict


class TemplateError(Exception):
    """What the author of a template did wrong, or a value that cannot be used.

    Args:
        text: quotes at most a character of a value, and what a function was called with.
        unquoted: the same without, where that may be secret.
    """

    def __init__(self, text: str, unquoted: str | None = None) -> None:
        super().__init__(text)
        self.unquoted = text if unquoted is None else unquoted


class Binary:
    """A value of the KV store that is not UTF-8 text: it can be encoded, and not printed."""

    __slots__ = ("_data", "_key")

    def __init__(self, key: str, data: bytes) -> None:
        self._key, self._data = key, data

    def __bytes__(self) -> bytes:
        return self._data

    def __str__(self) -> str:
        raise TemplateError(
            f"the value of the key {self._key} is not UTF-8 text: only base64_encode and sha256 take it"
        )

    def __len__(self) -> int:
        return len(self._data)


def text_of(key: str, encoded: str | None) -> str | Binary:
    """A value of the KV store, given as base64."""
    data = base64.b64decode(encoded or "")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Binary(key, data)


@dataclass(frozen=True, slots=True)
class ServiceInstance:
    """One instance of a service.

    Attributes:
        name: of the service.
        address: the service's own, else its node's.
        port: of several named ones the default; 0 if none was registered.
        status: "passing", "warning", "critical" or "maintenance".
        weight: Consul's weight for that status.
        ports: name -> port, of a service with several.
    """

    id: str
    name: str
    node: str
    address: str
    port: int
    status: str
    weight: int
    tags: list[str]
    meta: dict[str, str]
    ports: dict[str, int]


@dataclass(frozen=True, slots=True)
class Pair:
    """One key below a prefix.

    Attributes:
        path: the whole key.
        key: the part below the prefix.
        value: as text, or a `Binary`.
    """

    path: str
    key: str
    value: str | Binary


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the catalogue."""

    id: str
    name: str
    address: str
    datacenter: str
    meta: dict[str, str]
    addresses: dict[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the catalogue."""

    name: str
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Check:
    """One health check; `service` is "" for a check of the node itself."""

    id: str
    name: str
    node: str
    service: str
    service_id: str
    status: str
    output: str
    notes: str


def instances(name: str, raw: Json) -> list[ServiceInstance]:
    """The instances of a service, IPv4 before IPv6 before names."""
    return [
        ServiceInstance(
            one.id, name, one.node, one.address, one.port, one.status, one.weight,
            list(one.tags), dict(one.meta), dict(one.ports),
        )
        for one in ServiceState("", raw).instances
    ]  # fmt: skip


def pairs(prefix: str, raw: Json) -> list[Pair]:
    """The keys below a folder, sorted; those that only begin with the same letters are not in it."""
    folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    found = sorted(raw or (), key=_key)
    below = [one for one in found if _key(one).startswith(folder) and not _key(one).endswith("/")]
    return [
        Pair(one["Key"], one["Key"][len(folder) :], text_of(one["Key"], one.get("Value"))) for one in below
    ]


def _key(pair: Json) -> str:
    return str(pair["Key"])


def nodes(raw: Json) -> list[Node]:
    """The nodes, sorted by name."""
    found = [
        Node(
            id=str(one.get("ID") or ""),
            name=one["Node"],
            address=str(one.get("Address") or ""),
            datacenter=str(one.get("Datacenter") or ""),
            meta=one.get("Meta") or {},
            addresses=one.get("TaggedAddresses") or {},
        )
        for one in raw
    ]
    return sorted(found, key=lambda node: node.name)


def services(raw: Json) -> list[Service]:
    """The services, sorted by name."""
    return [Service(name, sorted(tags or ())) for name, tags in sorted(raw.items())]


def checks(raw: Json) -> list[Check]:
    """The checks, sorted by node and ID."""
    found = [Check(**dict(_fields(one))) for one in raw]
    return sorted(found, key=lambda check: (check.node, check.id))


_CHECK: Final = {
    "id": "CheckID", "name": "Name", "node": "Node", "service": "ServiceName", "service_id": "ServiceID",
    "status": "Status", "output": "Output", "notes": "Notes",
}  # fmt: skip


def _fields(raw: Json) -> Iterator[tuple[str, str]]:
    for name, written in _CHECK.items():
        yield name, str(raw.get(written) or "")

"""Changes made by hand, in the form that Consul's HTTP API returns.

It owns that form for tests, and never talks to Consul.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.handler import Event, KeyPrefixState, KeyState, Notification, ServiceState


def event(
    name: str,
    payload: bytes | str = b"",
    *,
    ltime: int = 1,
    id: str | None = None,  # noqa: A002 (Consul's word)
) -> Event:
    """A user event. Without `id`, equal arguments make the same event."""
    data = payload.encode() if isinstance(payload, str) else payload
    raw = {
        "ID": id or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {ltime} {data.hex()}")),
        "Name": name,
        "Payload": base64.b64encode(data).decode() or None,
        "NodeFilter": "",
        "ServiceFilter": "",
        "TagFilter": "",
        "Version": 1,
        "LTime": ltime,
    }
    return Event("event", raw)


def _pair(path: str, value: bytes, index: int) -> dict[str, Any]:
    return {
        "LockIndex": 0,
        "Key": path,
        "Flags": 0,
        "Value": base64.b64encode(value).decode() or None,
        "CreateIndex": index,
        "ModifyIndex": index,
    }


def key(path: str, value: bytes | str | None, *, index: int = 1) -> KeyState:
    """The state of one key; None is a deleted key."""
    data = value.encode() if isinstance(value, str) else value
    return KeyState(f"key:{path}", None if data is None else _pair(path, data, index), index)


def keyprefix(prefix: str, values: Mapping[str, bytes], *, index: int = 1) -> KeyPrefixState:
    """The state of all keys below a prefix; `values` maps full keys to values."""
    pairs = [_pair(path, value, index) for path, value in values.items()]
    return KeyPrefixState(f"keyprefix:{prefix}", pairs, index)


def instance(
    address: str,
    port: int,
    *,
    status: str = "passing",
    **service: Any,  # noqa: ANN401 (any JSON)
) -> dict[str, Any]:
    """One entry of `/v1/health/service`; `service` adds fields such as `Tags`, `Meta` or `Weights`."""
    return {
        "Node": {"Node": f"node-{address}", "Address": address},
        "Service": {"ID": f"{address}:{port}", "Address": address, "Port": port, **service},
        "Checks": [{"CheckID": "check", "Status": status}],
    }


def service(name: str, instances: Sequence[Mapping[str, Any]], *, index: int = 1) -> ServiceState:
    """The state of one service, from what `instance` returns."""
    return ServiceState(f"service:{name}", list(instances), index)


def notification(
    generation: int,
    by: str,
    paths: Sequence[str] = (),
    *,
    rollback: bool = False,
    id: str | None = None,  # noqa: A002 (agentd's word)
) -> Notification:
    """The change that handlers named in `notify` get after a commit."""
    raw = {
        "id": id or f"{by}-{generation}",
        "generation": generation,
        "by": by,
        "paths": list(paths),
        "rollback": rollback,
    }
    return Notification("notify", raw)

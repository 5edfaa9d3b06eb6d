"""Changes made by hand, in the form that Consul's HTTP API returns.

It owns that form for tests, and never talks to Consul.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.handler import Event, KeyPrefixState, KeyState, Message, Notification, ServiceState


def event(
    name: str,
    payload: bytes | str = b"",
    *,
    ltime: int = 1,
    id: str | None = None,  # noqa: A002 (Consul's word)
    provisional: bool = False,
) -> Event:
    """A user event, as heard. Without `id`, equal arguments make the same event.

    It is `provisional` if its name is kept in the fleet's log, which could not be reached.
    """
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
    return Event("event", raw | ({"Provisional": True} if provisional else {}))


def message(  # noqa: PLR0913 (as many things are known of a message; all but two are named at the call)
    name: str,
    payload: bytes | str = b"",
    *,
    num: int = 1,
    issued: float = 1_700_000_000.0,
    counts_from: float | None = None,
    publisher: str = "tests",
    expires: float | None = None,
    snapshot: bool = False,
    id: str | None = None,  # noqa: A002 (Consul's word)
) -> Event:
    """A message of the fleet's log, as a node gets it that catches up, or (`counts_from`) that follows.

    With the `id` of an event it is that event, relayed by `publisher`.
    """
    said = Message(
        num=num,
        issued=issued,
        counts_from=issued if counts_from is None else counts_from,
        publisher=publisher,
        via=publisher if id else "",
        expires=expires,
        snapshot=snapshot,
    )
    data = payload.encode() if isinstance(payload, str) else payload
    raw = {
        "ID": id or f"{name}-{num}",
        "Name": name,
        "Payload": base64.b64encode(data).decode(),
        "LTime": 0,
        "Message": said.raw,
    }
    return Event(f"log:{name}", raw, num)


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

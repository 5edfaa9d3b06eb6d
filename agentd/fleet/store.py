"""The key-value store and the sessions of Consul, as far as a lock needs them.

One request a method, translated to values; no method waits, repeats or decides. Reads ask the leader to make
sure that it still leads (`consistent`), since a lock that is judged by an old answer is none.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.watch.client import ConsulClient
from agentd.watch.options import ANSWER_TIME
from agentd.watch.transport import Parameters, Reply

_SHORTEST: Final = 0.01
Behavior = Literal["release", "delete"]
"""What becomes of the keys of a session that ends: they become free, or they are deleted."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One key: `session` is its holder or "", `index` counts its changes (ModifyIndex)."""

    key: str
    value: bytes
    flags: int
    session: str
    index: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What one read found; a next read blocks on `index`."""

    index: int
    pairs: tuple[Pair, ...]

    def find(self, key: str) -> Pair | None:
        """The pair of that key, if there is one."""
        return next((pair for pair in self.pairs if pair.key == key), None)


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a transaction read and wrote, or the operations (from 0) that stopped it, and why."""

    results: tuple[Mapping[str, Any], ...] = ()
    failures: tuple[tuple[int, str], ...] = ()


class Store(Protocol):
    """What a lock asks of Consul. Each method raises ConsulUnavailable or ConsulRefused."""

    def another(self) -> Store:
        """The same over a connection of its own, for another thread."""

    def close(self) -> None:
        """Close, from any thread; a read that blocks fails at once."""

    def read(self, key: str, *, recurse: bool, index: int, wait: float) -> Listing:
        """Read a key, or all that begin with it; with an index, wait at most `wait` seconds for a newer."""

    def acquire(self, key: str, session: str, flags: int) -> bool:
        """Take a free key for a session; False if it is not free, or not yet (lock delay)."""

    def release(self, key: str, session: str, flags: int) -> bool:
        """Free a key; False if it is not the session's."""

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Write if the key's index is still this one (0: if there is no such key)."""

    def delete(self, key: str, index: int | None = None) -> bool:
        """Delete; with an index, only if it is still the key's."""

    def transact(self, operations: Sequence[Mapping[str, Any]]) -> Transaction:
        """Do all operations on keys or none."""

    def create_session(self, name: str, ttl: float, behavior: Behavior) -> str:
        """Make a session on the local agent's node and return its ID."""

    def renew_session(self, session: str, patience: float) -> bool:
        """Put off its end by its TTL, within `patience` seconds; False if it has ended."""

    def destroy_session(self, session: str) -> None:
        """End it; no error if it has ended."""

    def node_of(self, session: str) -> str:
        """The node that made a session, "" if it has ended."""


class ConsulStore:
    """`Store` on a real Consul; see there. The client stays the caller's."""

    def __init__(self, client: ConsulClient) -> None:
        self._client = client

    def another(self) -> ConsulStore:
        """A client of its own, with the same options."""
        return ConsulStore(ConsulClient(self._client.options))

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    # ------------------------------------------------------------------ keys

    def read(self, key: str, *, recurse: bool, index: int, wait: float) -> Listing:
        """https://developer.hashicorp.com/consul/api-docs/kv#read-key."""
        params = (("consistent", ""), *((("recurse", ""),) if recurse else ()))
        # A wait that rounds to nothing would be taken for "not said", which is five minutes.
        answer = self._client.get(f"/v1/kv/{key}", params, index if wait >= _SHORTEST else 0, wait)
        return Listing(answer.index, tuple(_pair(raw) for raw in answer.raw or ()))

    def acquire(self, key: str, session: str, flags: int) -> bool:
        """https://developer.hashicorp.com/consul/api-docs/kv#acquire."""
        return self._put(key, [("acquire", session), ("flags", str(flags))])

    def release(self, key: str, session: str, flags: int) -> bool:
        """https://developer.hashicorp.com/consul/api-docs/kv#release."""
        return self._put(key, [("release", session), ("flags", str(flags))])

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """https://developer.hashicorp.com/consul/api-docs/kv#cas."""
        return self._put(key, [("cas", str(index)), ("flags", str(flags))], value)

    def delete(self, key: str, index: int | None = None) -> bool:
        """https://developer.hashicorp.com/consul/api-docs/kv#delete-key."""
        params = [] if index is None else [("cas", str(index))]
        return bool(_parsed(self._client.send("DELETE", f"/v1/kv/{key}", params)))

    def _put(self, key: str, params: Parameters, value: bytes = b"") -> bool:
        return bool(_parsed(self._client.send("PUT", f"/v1/kv/{key}", params, value)))

    def transact(self, operations: Sequence[Mapping[str, Any]]) -> Transaction:
        """https://developer.hashicorp.com/consul/api-docs/txn."""
        body = json.dumps([{"KV": one} for one in operations]).encode()
        answer = _parsed(self._client.send("PUT", "/v1/txn", body=body))
        return Transaction(
            results=tuple(one["KV"] for one in answer.get("Results") or ()),
            failures=tuple((one["OpIndex"], one["What"]) for one in answer.get("Errors") or ()),
        )

    # ------------------------------------------------------------------ sessions

    def create_session(self, name: str, ttl: float, behavior: Behavior) -> str:
        """https://developer.hashicorp.com/consul/api-docs/session#create-session."""
        body = json.dumps({"Name": name, "TTL": f"{ttl:g}s", "Behavior": behavior}).encode()
        return str(_parsed(self._client.send("PUT", "/v1/session/create", body=body))["ID"])

    def renew_session(self, session: str, patience: float) -> bool:
        """https://developer.hashicorp.com/consul/api-docs/session#renew-session."""
        path = f"/v1/session/renew/{session}"
        return self._client.send("PUT", path, patience=min(patience, ANSWER_TIME)).status == HTTPStatus.OK

    def destroy_session(self, session: str) -> None:
        """https://developer.hashicorp.com/consul/api-docs/session#delete-session."""
        self._client.send("PUT", f"/v1/session/destroy/{session}")

    def node_of(self, session: str) -> str:
        """https://developer.hashicorp.com/consul/api-docs/session#read-session."""
        found = self._client.get(f"/v1/session/info/{session}").raw
        return str(found[0]["Node"]) if found else ""


def _pair(raw: Mapping[str, Any]) -> Pair:
    return Pair(
        key=raw["Key"],
        value=base64.b64decode(raw["Value"] or ""),
        flags=raw["Flags"],
        session=raw.get("Session", ""),
        index=raw["ModifyIndex"],
    )


def _parsed(reply: Reply) -> Any:  # noqa: ANN401 (any JSON)
    if reply.status == HTTPStatus.NOT_FOUND:
        raise ConsulRefused("this agent does not know the request: correct consul.address")
    try:
        return json.loads(reply.body)
    except ValueError as error:
        raise ConsulUnavailable("the answer is not JSON: correct consul.address") from error

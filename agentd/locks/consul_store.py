"""Consul's key-value store and sessions, as far as a lock needs them.

One request per method, translated to values; no method waits, retries or decides anything. Reads are
`consistent` (the leader makes sure that it still leads), because a stale answer would break the lock. Writes
that Consul makes only while a lock is held go through `fenced`.
https://developer.hashicorp.com/consul/api-docs/kv, and /txn and /session beside it
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal

from agentd.errors import ConsulRefused, ConsulUnavailable, LockLost
from agentd.http import Response
from agentd.watch.client import ConsulClient
from agentd.watch.options import ANSWER_TIME
from agentd.watch.parsing import parse
from agentd.watch.transport import Parameters

_SHORTEST: Final = 0.01
_TYPES: Final = {"key": str, "flags": int, "session": str, "index": int}
Behavior = Literal["release", "delete"]
"""What happens to the keys of a session that ends: they are released, or deleted."""


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
    """What one read found; the next read blocks on `index`."""

    index: int
    pairs: tuple[Pair, ...]

    def find(self, key: str) -> Pair | None:
        """The pair of that key, or None."""
        return next((pair for pair in self.pairs if pair.key == key), None)


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a transaction read and wrote, or which operations (counted from 0) failed, and why."""

    results: tuple[Mapping[str, Any], ...] = ()
    failures: tuple[tuple[int, str], ...] = ()


class ConsulStore:
    """What a lock needs of Consul. The client remains the caller's to close.

    Each method may raise ConsulUnavailable or ConsulRefused.
    """

    def __init__(self, client: ConsulClient) -> None:
        self._client = client

    def another(self) -> ConsulStore:
        """The same over a separate connection, for another thread."""
        return ConsulStore(ConsulClient(self._client.options))

    def close(self) -> None:
        """Close it; may be called from any thread, and makes a blocking read fail at once."""
        self._client.close()

    # ------------------------------------------------------------------ keys

    def read(self, key: str, *, recurse: bool, index: int, wait: float) -> Listing:
        """Read a key, or all that begin with it; with an index, wait up to `wait` seconds for a newer one."""
        params = (("consistent", ""), *((("recurse", ""),) if recurse else ()))
        # Consul takes a wait that rounds to 0 for the default, which is five minutes.
        path = f"/v1/kv/{key}"
        answer = self._client.get(path, params, index if wait >= _SHORTEST else 0, wait)
        if answer.odd:  # it may be the lock's key
            raise ConsulUnavailable(f"the answer to {path} has an item that cannot be read")
        with _understood(path):
            return Listing(answer.index, tuple(_pair(raw) for raw in answer.raw or ()))

    def acquire(self, key: str, session: str, flags: int) -> bool:
        """Acquire a free key for a session; False if it is taken, or barred by the lock delay."""
        return self._put(key, [("acquire", session), ("flags", str(flags))])

    def release(self, key: str, session: str, flags: int) -> bool:
        """Release a key; False if the session does not hold it."""
        return self._put(key, [("release", session), ("flags", str(flags))])

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Write only if the key's index is still this one (0: only if there is no such key)."""
        return self._put(key, [("cas", str(index)), ("flags", str(flags))], value)

    def delete(self, key: str, index: int | None = None) -> bool:
        """Delete; with an index, only if the key still has it."""
        params = [] if index is None else [("cas", str(index))]
        return bool(_parsed(self._client.send("DELETE", f"/v1/kv/{key}", params)))

    def _put(self, key: str, params: Parameters, value: bytes = b"") -> bool:
        return bool(_parsed(self._client.send("PUT", f"/v1/kv/{key}", params, value)))

    def transact(self, operations: Sequence[Mapping[str, Any]]) -> Transaction:
        """Run all operations on keys, or none."""
        body = json.dumps([{"KV": one} for one in operations]).encode()
        answer = _parsed(self._client.send("PUT", "/v1/txn", body=body))
        with _understood("/v1/txn"):
            return Transaction(
                results=tuple(dict(one["KV"]) for one in answer.get("Results") or ()),
                failures=tuple((int(one["OpIndex"]), str(one["What"])) for one in answer.get("Errors") or ()),
            )

    # ------------------------------------------------------------------ sessions

    def create_session(self, name: str, ttl: float, behavior: Behavior) -> str:
        """Create a session on the local agent's node and return its ID."""
        body = json.dumps({"Name": name, "TTL": f"{ttl:g}s", "Behavior": behavior}).encode()
        answer = _parsed(self._client.send("PUT", "/v1/session/create", body=body))
        with _understood("/v1/session/create"):
            return str(answer["ID"])

    def renew_session(self, session: str, patience: float) -> bool:
        """Renew it for one TTL, allowing `patience` seconds for the answer; False if it has ended."""
        path = f"/v1/session/renew/{session}"
        return self._client.send("PUT", path, patience=min(patience, ANSWER_TIME)).status == HTTPStatus.OK

    def destroy_session(self, session: str) -> None:
        """End it; it is no error if it has already ended."""
        self._client.send("PUT", f"/v1/session/destroy/{session}")

    def node_of(self, session: str) -> str:
        """The node that created a session, or "" if it has ended."""
        path = f"/v1/session/info/{session}"
        found = self._client.get(path).raw
        with _understood(path):
            return str(found[0]["Node"]) if found else ""


@contextmanager
def _understood(path: str) -> Iterator[None]:
    """Whatever answers there, what it says is no answer of Consul's if it cannot be taken apart."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConsulUnavailable(
            f"the answer to {path} has an unexpected form: is this a Consul agent?"
        ) from error


def _pair(raw: Mapping[str, Any]) -> Pair:
    pair = Pair(
        key=raw["Key"],
        value=base64.b64decode(raw["Value"] or "", validate=True),
        flags=raw["Flags"],
        session=raw.get("Session", ""),
        index=raw["ModifyIndex"],
    )
    if not all(isinstance(getattr(pair, name), kind) for name, kind in _TYPES.items()):
        raise TypeError("a field of the pair is of another type")
    return pair


def _parsed(reply: Response) -> Any:  # noqa: ANN401 (any JSON)
    if reply.status == HTTPStatus.NOT_FOUND:
        raise ConsulRefused(
            "the answer is not that of a Consul agent: is something else listening at this address?"
        )
    try:
        return parse(reply.body).value
    except ValueError as error:
        raise ConsulUnavailable("the answer is not JSON: is this a Consul agent?") from error


_MOST: Final = 63  # operations; Consul accepts 64 per transaction, and the check is one of them

Operation = Mapping[str, Any]
"""Such as {"Verb": "set", "Key": "a/b", "Value": b"..."} (https://developer.hashicorp.com/consul/api-docs/txn#kv-operations)."""


def fenced(
    store: ConsulStore, guard: str, session: str, operations: Sequence[Operation]
) -> tuple[Operation, ...]:
    """Run all operations if `session` still holds the key `guard`, else none.

    Args:
        store: where to.
        guard: the key that the lock's session holds.
        session: the lock's.
        operations: at most 63; a `Value` is bytes.

    Returns:
        Consul's result of each, in order; a `Value` that was read is in base64.

    Raises:
        LockLost: the session no longer holds the key; nothing was written.
        ConsulRefused: an operation failed; nothing was written.
        ConsulUnavailable: no answer; whether it was written is unknown.
        ValueError: too many operations.
    """
    if len(operations) > _MOST:
        raise ValueError(f"a transaction takes at most {_MOST} operations")
    check = {"Verb": "check-session", "Key": guard, "Session": session}
    done = store.transact([check, *map(_encoded, operations)])
    if any(at == 0 for at, _ in done.failures):
        raise LockLost(f"the session no longer holds the key {guard}; nothing was written")
    if done.failures:
        at, why = done.failures[0]
        raise ConsulRefused(f"operation {at} of the transaction failed ({why}); nothing was written")
    return done.results[1:]


def _encoded(operation: Operation) -> Operation:
    value = operation.get("Value")
    return operation if value is None else {**operation, "Value": base64.b64encode(value).decode()}

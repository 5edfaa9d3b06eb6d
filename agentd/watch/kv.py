"""Consul's key-value store: keys, and transactions on them.

One request per method, translated to values; no method waits, retries or decides anything. Whoever needs more
than keys, as a lock needs sessions, builds on it.
https://developer.hashicorp.com/consul/api-docs/kv, and /txn beside it
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.http import Response
from agentd.watch.client import ConsulClient
from agentd.watch.parsing import parse
from agentd.watch.transport import Parameters

MOST_OPERATIONS: Final = 64
"""That Consul accepts in one transaction."""
Operation = Mapping[str, Any]
"""Such as {"Verb": "set", "Key": "a/b", "Value": b"..."} (https://developer.hashicorp.com/consul/api-docs/txn#kv-operations)."""

_DENIED: Final = "Permission denied"
"""With which Consul begins the failure of an operation that the token has no right for."""
_SHORTEST: Final = 0.01
_TYPES: Final = {"key": str, "flags": int, "session": str, "index": int}


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


class KeyValueStore:
    """The keys, over one client, which remains the caller's to close.

    Each method may raise ConsulUnavailable (whether something was written is unknown) or ConsulRefused.
    """

    def __init__(self, client: ConsulClient) -> None:
        self._given = client

    @property
    def _client(self) -> ConsulClient:
        return self._given

    def read(
        self, key: str, *, recurse: bool, index: int = 0, wait: float = 0.0, consistent: bool = True
    ) -> Listing:
        """Read a key, or all that begin with it; with an index, wait up to `wait` seconds for a newer one.

        `consistent`: the leader first makes sure that it still leads, so that nothing stale is answered.
        """
        params = [*_mode(consistent), *([("recurse", "")] if recurse else [])]
        # Consul takes a wait that rounds to 0 for the default, which is five minutes.
        path = f"/v1/kv/{key}"
        answer = self._client.get(path, params, index if wait >= _SHORTEST else 0, wait)
        if answer.odd:  # it may be the key that counts
            raise ConsulUnavailable(f"the answer to {path} has an item that cannot be read")
        with understood(path):
            return Listing(answer.index, tuple(pair_of(raw) for raw in answer.raw or ()))

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:
        """The keys that begin with the prefix, in their order, without their values."""
        path = f"/v1/kv/{prefix}"
        answer = self._client.get(path, [*_mode(consistent), ("keys", "")])
        found = answer.raw or ()
        if answer.odd:
            raise ConsulRefused(f"there are too many keys below {prefix}: look what wrote them there")
        with understood(path):
            if not all(isinstance(key, str) for key in found):
                raise TypeError("a key is no text")
            return tuple(found)

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Write only if the key's index is still this one (0: only if there is no such key)."""
        return self._put(key, [("cas", str(index)), ("flags", str(flags))], value)

    def delete(self, key: str, index: int | None = None) -> bool:
        """Delete; with an index, only if the key still has it."""
        params = [] if index is None else [("cas", str(index))]
        return bool(parsed(self._client.send("DELETE", f"/v1/kv/{key}", params)))

    def _put(self, key: str, params: Parameters, value: bytes = b"") -> bool:
        return bool(parsed(self._client.send("PUT", f"/v1/kv/{key}", params, value)))

    def transact(self, operations: Sequence[Operation], *, consistent: bool = False) -> Transaction:
        """Run all operations on keys, or none. `consistent` is for a transaction that only reads.

        Raises:
            ConsulRefused: also if the token lacks the right for one of them, which no other try would mend.
        """
        body = json.dumps([{"KV": one} for one in operations]).encode()
        answer = parsed(self._client.send("PUT", "/v1/txn", _mode(consistent), body))
        with understood("/v1/txn"):
            results = tuple(dict(one["KV"]) for one in answer.get("Results") or ())
            failures = tuple((int(one["OpIndex"]), str(one["What"])) for one in answer.get("Errors") or ())
            denied = [operations[at]["Key"] for at, what in failures if what.startswith(_DENIED)]
        if denied:
            raise ConsulRefused(
                f"permission denied: the ACL token lacks the rights for the key {denied[0]} in a transaction"
            )
        return Transaction(results, failures)

    def delete_all(self, prefix: str) -> None:
        """Delete every key that begins with the prefix."""
        parsed(self._client.send("DELETE", f"/v1/kv/{prefix}", [("recurse", "")]))


def _mode(consistent: bool) -> list[tuple[str, str]]:  # noqa: FBT001 (a keyword of every method above)
    return [("consistent", "")] if consistent else []


@contextmanager
def understood(path: str) -> Iterator[None]:
    """Whatever answers there, what it says is no answer of Consul's if it cannot be taken apart."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConsulUnavailable(
            f"the answer to {path} has an unexpected form: is this a Consul agent?"
        ) from error


def pair_of(raw: Mapping[str, Any]) -> Pair:
    """The key in Consul's words. Raises what `understood` translates."""
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


def parsed(reply: Response) -> Any:  # noqa: ANN401 (any JSON)
    """The JSON that a write was answered with. Raises ConsulUnavailable or ConsulRefused if there is none."""
    if reply.status == HTTPStatus.NOT_FOUND:
        raise ConsulRefused(
            "the answer is not that of a Consul agent: is something else listening at this address?"
        )
    try:
        return parse(reply.body).value
    except ValueError as error:
        raise ConsulUnavailable("the answer is not JSON: is this a Consul agent?") from error


def encoded(operation: Operation) -> Operation:
    """The operation as Consul takes it: its value in base64."""
    value = operation.get("Value")
    return operation if value is None else {**operation, "Value": base64.b64encode(value).decode()}

"""Consul's key-value store and sessions, as far as a lock needs them.

One request per method, translated to values; no method waits, retries or decides anything. Reads are
`consistent`, because a stale answer would break the lock. Writes that Consul makes only while a lock is held
go through `fenced`.
https://developer.hashicorp.com/consul/api-docs/kv, and /txn and /session beside it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Literal

from agentd.errors import ConsulRefused, LockLost
from agentd.watch.client import ConsulClient
from agentd.watch.kv import (
    MOST_OPERATIONS,
    KeyValueStore,
    Listing,
    Operation,
    Pair,
    Transaction,
    encoded,
    parsed,
    understood,
)
from agentd.watch.options import ANSWER_TIME

__all__ = ["Behavior", "ConsulStore", "Listing", "Operation", "Pair", "Transaction", "fenced"]

Behavior = Literal["release", "delete"]
"""What happens to the keys of a session that ends: they are released, or deleted."""


class ConsulStore(KeyValueStore):
    """What a lock needs of Consul. The client remains the caller's to close.

    Each method may raise ConsulUnavailable or ConsulRefused.
    """

    def another(self) -> ConsulStore:
        """The same over a separate connection, for another thread."""
        return ConsulStore(ConsulClient(self._client.options))

    def close(self) -> None:
        """Close it; may be called from any thread, and makes a blocking read fail at once."""
        self._client.close()

    # ------------------------------------------------------------------ keys

    def acquire(self, key: str, session: str, flags: int) -> bool:
        """Acquire a free key for a session; False if it is taken, or barred by the lock delay."""
        return self._put(key, [("acquire", session), ("flags", str(flags))])

    def release(self, key: str, session: str, flags: int) -> bool:
        """Release a key; False if the session does not hold it."""
        return self._put(key, [("release", session), ("flags", str(flags))])

    # ------------------------------------------------------------------ sessions

    def create_session(self, name: str, ttl: float, behavior: Behavior) -> str:
        """Create a session on the local agent's node and return its ID."""
        body = json.dumps({"Name": name, "TTL": f"{ttl:g}s", "Behavior": behavior}).encode()
        answer = parsed(self._client.send("PUT", "/v1/session/create", body=body))
        with understood("/v1/session/create"):
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
        with understood(path):
            return str(found[0]["Node"]) if found else ""


_MOST: Final = MOST_OPERATIONS - 1  # the check is one of them


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
    done = store.transact([check, *map(encoded, operations)])
    if any(at == 0 for at, _ in done.failures):
        raise LockLost(f"the session no longer holds the key {guard}; nothing was written")
    if done.failures:
        at, why = done.failures[0]
        raise ConsulRefused(f"operation {at} of the transaction failed ({why}); nothing was written")
    return done.results[1:]

"""Writes that Consul makes only while a lock is held: one transaction, whose first condition is the lock."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentd.errors import ConsulRefused, LockLost
from agentd.fleet.store import Store

_MOST: Final = 63  # operations; Consul takes 64 in a transaction, and the check is one

Operation = Mapping[str, Any]
"""Such as {"Verb": "set", "Key": "a/b", "Value": b"..."} (https://developer.hashicorp.com/consul/api-docs/txn#kv-operations)."""


def fenced(store: Store, guard: str, session: str, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Do all operations if `session` still has the key `guard`, else none.

    Args:
        store: where.
        guard: the key that the lock's session keeps.
        session: the lock's.
        operations: at most 63; a `Value` is bytes.

    Returns:
        What Consul says of each, in order; a `Value` that was read is in base64.

    Raises:
        LockLost: the session has not the key; nothing was written.
        ConsulRefused: an operation is not possible; nothing was written.
        ConsulUnavailable: no answer; whether it was written is not known.
        ValueError: too many operations.
    """
    if len(operations) > _MOST:
        raise ValueError(f"at most {_MOST} operations fit a transaction")
    check = {"Verb": "check-session", "Key": guard, "Session": session}
    done = store.transact([check, *map(_encoded, operations)])
    if any(at == 0 for at, _ in done.failures):
        raise LockLost(f"the key {guard} is not our session's any more; nothing was written")
    if done.failures:
        at, why = done.failures[0]
        raise ConsulRefused(f"operation {at} of the transaction failed ({why}); nothing was written")
    return done.results[1:]


def _encoded(operation: Operation) -> Operation:
    value = operation.get("Value")
    return operation if value is None else {**operation, "Value": base64.b64encode(value).decode()}

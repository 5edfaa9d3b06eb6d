"""The key-value store that the log needs, as a protocol, and Consul's implementation of it.

Owns how many keys and bytes go into one request. Knows nothing of heads and messages, and never retries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from agentd.errors import ConsulUnavailable
from agentd.watch.client import ConsulClient
from agentd.watch.kv import KeyValueStore, Operation, Pair, Transaction, encoded, pair_of, understood

MOST_READS: Final = 60
"""Most keys that one transaction reads."""
MOST_BYTES: Final = 320 * 1024
"""Most bytes of messages that one transaction writes: base64-encoded, with the rest, they fit in 512 KiB."""


def cas(key: str, value: bytes, index: int) -> Operation:
    """Write only if the key still has this ModifyIndex; 0: only if the key does not exist."""
    return {"Verb": "cas", "Key": key, "Value": value, "Index": index}


def delete(key: str) -> Operation:
    """Delete; a missing key is not an error."""
    return {"Verb": "delete", "Key": key}


class KV(Protocol):
    """A key-value store with check-and-set and transactions.

    Every method may raise ConsulUnavailable (a write may then have taken effect or not) or ConsulRefused.
    `consistent` rules out an answer from a leader that has been deposed.
    """

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:
        """The key with its value; None if it does not exist."""
        ...

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:
        """The keys that exist, with their values; read `MOST_READS` at a time."""
        ...

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:
        """The keys that begin with the prefix, sorted, without their values."""
        ...

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Write only if the key still has this ModifyIndex (0: only if it does not exist)."""
        ...

    def delete(self, key: str, index: int | None = None) -> bool:
        """Delete; with an index, only if the key still has this ModifyIndex."""
        ...

    def delete_all(self, prefix: str) -> None:
        """Delete every key that begins with the prefix."""
        ...

    def write(self, operations: Sequence[Operation]) -> Transaction:
        """Do all the operations or none; if none, `failures` says which ones failed and why."""
        ...


class ConsulKV(KeyValueStore):
    """Consul's KV store; one instance per thread, as for its client."""

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:
        """See `KV`."""
        return self.read(key, recurse=False, consistent=consistent).find(key)

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:
        """See `KV`. Uses `get-tree`, since a `get` of a missing key fails the whole transaction."""
        wanted = list(keys)
        found: dict[str, Pair] = {}
        for at in range(0, len(wanted), MOST_READS):
            some = wanted[at : at + MOST_READS]
            answer = self.transact([{"Verb": "get-tree", "Key": key} for key in some], consistent=consistent)
            if answer.failures:
                raise ConsulUnavailable(f"a transaction that only reads failed: {answer.failures[0][1]}")
            with understood("/v1/txn"):
                pairs = map(pair_of, answer.results)
                found |= {pair.key: pair for pair in pairs if pair.key in some}
        return found

    def write(self, operations: Sequence[Operation]) -> Transaction:
        """See `KV`."""
        return self.transact([encoded(one) for one in operations])


class LateKV(ConsulKV):
    """Consul's KV store, connected on first use, for threads that must start while Consul is down.

    Args:
        connect: makes a client; may raise ConsulRefused, for example while the token file is missing.
    """

    def __init__(self, connect: Callable[[], ConsulClient]) -> None:
        self._connect = connect
        self._made: ConsulClient | None = None

    @property
    def _client(self) -> ConsulClient:
        self._made = self._made or self._connect()
        return self._made

    def close(self) -> None:
        """Close the client; called from another thread, it aborts the request in flight."""
        if self._made is not None:
            self._made.close()

"""What the log needs of a key-value store, and Consul's as that.

Owns how many keys and bytes go into one request. It knows neither heads nor messages, and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from agentd.errors import ConsulUnavailable
from agentd.watch.client import ConsulClient
from agentd.watch.kv import KeyValueStore, Operation, Pair, Transaction, encoded, pair_of, understood

MOST_READS: Final = 60
"""Keys that one transaction reads."""
MOST_BYTES: Final = 320 * 1024
"""Bytes of messages that one transaction writes: in base64, with all else, it stays below 512 KiB."""


def cas(key: str, value: bytes, index: int) -> Operation:
    """Write only if the key's index is still this one; 0 if there must be no such key."""
    return {"Verb": "cas", "Key": key, "Value": value, "Index": index}


def delete(key: str) -> Operation:
    """Delete; it is no error if there is no such key."""
    return {"Verb": "delete", "Key": key}


class KV(Protocol):
    """A key-value store with check-and-set and transactions.

    Each method may raise ConsulUnavailable (then a write may have taken effect or not) or ConsulRefused.
    """

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:
        """The key, or None if there is none; consistent: not from a leader that has been deposed."""
        ...

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:
        """Those of the keys that are there, `MOST_READS` at a time."""
        ...

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:
        """The keys that begin with the prefix, in their order, without their values."""
        ...

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Write only if the key's index is still this one (0: only if there is no such key)."""
        ...

    def delete(self, key: str, index: int | None = None) -> bool:
        """Delete; with an index, only if the key still has it."""
        ...

    def delete_all(self, prefix: str) -> None:
        """Delete every key that begins with the prefix."""
        ...

    def write(self, operations: Sequence[Operation]) -> Transaction:
        """Do all, or none: then `failures` says which of them failed, and why."""
        ...


class ConsulKV(KeyValueStore):
    """Consul's; one per thread, like the client that it is given."""

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:
        """See `KV`."""
        return self.read(key, recurse=False, consistent=consistent).find(key)

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:
        """See `KV`. A missing key fails the transaction of a `get`; a `get-tree` just finds nothing."""
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
    """The same, for whoever begins without Consul: connects when it is asked first.

    Args:
        connect: makes a client; it may raise ConsulRefused, as for a token file that is not there yet.
    """

    def __init__(self, connect: Callable[[], ConsulClient]) -> None:
        self._connect = connect
        self._made: ConsulClient | None = None

    @property
    def _client(self) -> ConsulClient:
        self._made = self._made or self._connect()
        return self._made

    def close(self) -> None:
        """Close the client; from another thread it abandons what is asked."""
        if self._made is not None:
            self._made.close()

"""A key-value store in memory that answers as Consul does; `test_fleet_log.py` compares the two.

It can be wiped, set back to a snapshot, and fail before or after a write took effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.watch.kv import MOST_OPERATIONS, Operation, Pair, Transaction

Fault = Literal["none", "before", "after", "refused"]

_LARGEST_REQUEST = 512 * 1024


@dataclass
class ModelKV:
    """One store that all writers of a test share.

    Attributes:
        index: of the last write.
        found: what is there.
        faults: what befalls the next writes, one after another.
        before_write: called once before the next write, for races.
        most: operations of the largest transaction so far.
        reads, writes: how many requests there were.
    """

    index: int = 1
    found: dict[str, Pair] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    before_write: Callable[[], object] | None = None
    most: int = 0
    reads: int = 0
    writes: int = 0

    # ------------------------------------------------------------------ what happens to it

    def snapshot(self) -> dict[str, Pair]:
        """All that is there."""
        return dict(self.found)

    def restore(self, snapshot: dict[str, Pair]) -> None:
        """Set it back; the index goes on."""
        self.index += 1
        self.found = dict(snapshot)

    def put(self, key: str, value: bytes, flags: int = 0) -> None:
        """Write whatever is there."""
        before = self.found.get(key)
        if before is None or (before.value, before.flags) != (value, flags):
            self.index += 1
            self.found[key] = Pair(key, value, flags, "", self.index)

    # ------------------------------------------------------------------ KV

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:  # noqa: ARG002 (never stale)
        """One key."""
        self.reads += 1
        return self.found.get(key)

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:  # noqa: ARG002 (never stale)
        """Some keys, all at one moment."""
        self.reads += 1
        return {key: self.found[key] for key in keys if key in self.found}

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:  # noqa: ARG002 (never stale)
        """A listing."""
        self.reads += 1
        return tuple(sorted(key for key in self.found if key.startswith(prefix)))

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Check and set."""
        fault = self._next_write()
        done = self._index(key) == index
        if done:
            self.put(key, value, flags)
        self._answer(fault)
        return done

    def delete(self, key: str, index: int | None = None) -> bool:
        """Check and delete: what is not there is deleted."""
        fault = self._next_write()
        done = index is None or key not in self.found or self._index(key) == index
        if done:
            self._remove(key)
        self._answer(fault)
        return done

    def delete_all(self, prefix: str) -> None:
        """Delete a prefix."""
        fault = self._next_write()
        for key in self.keys(prefix):
            self._remove(key)
        self._answer(fault)

    def write(self, operations: Sequence[Operation]) -> Transaction:
        """All or none."""
        self.most = max(self.most, len(operations))
        size = sum(len(one["Key"]) + 80 + len(one.get("Value", b"")) * 4 // 3 for one in operations)
        if len(operations) > MOST_OPERATIONS or size > _LARGEST_REQUEST:
            raise ConsulRefused("the transaction is too large")
        fault = self._next_write()
        before = self.index, dict(self.found)
        self.index += 1
        failures = []
        for at, one in enumerate(operations):
            key = one["Key"]
            if one["Verb"] == "cas" and self._index(key) != one["Index"]:
                failures.append((at, f'failed to set key "{key}", index is stale'))
            elif one["Verb"] in ("cas", "set"):
                self._put_at(key, one["Value"])
            else:
                self.found.pop(key, None)
        if failures:
            self.index, self.found = before
        self._answer(fault)
        return Transaction(failures=tuple(failures))

    def _put_at(self, key: str, value: bytes) -> None:
        """All writes of a transaction have one index."""
        before = self.found.get(key)
        if before is None or before.value != value or before.flags:
            self.found[key] = Pair(key, value, 0, "", self.index)

    def _index(self, key: str) -> int:
        return self.found[key].index if key in self.found else 0

    def _remove(self, key: str) -> None:
        self.index += 1
        self.found.pop(key, None)

    def _next_write(self) -> Fault:
        self.writes += 1
        race, self.before_write = self.before_write, None
        if race:
            race()
        fault: Fault = self.faults.popleft() if self.faults else "none"
        if fault == "before":
            raise ConsulUnavailable("no answer; nothing was written")
        if fault == "refused":
            raise ConsulRefused("permission denied")
        return fault

    @staticmethod
    def _answer(fault: Fault) -> None:
        if fault == "after":
            raise ConsulUnavailable("no answer; it was written")

"""A Consul in memory, as far as locks go: keys, sessions, indexes, the lock delay, outages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.locks.consul_store import Behavior, ConsulStore, Listing, Pair, Transaction


@dataclass
class FakeConsul:
    """The state that all stores share.

    Attributes:
        down: every request fails.
        refused: every request is refused.
        delayed: keys that cannot be acquired though they are free.
        before_replace: called once before the next `replace`, for races.
        log: the writes, by name.
    """

    index: int = 1
    pairs: dict[str, Pair] = field(default_factory=dict)
    sessions: dict[str, Behavior] = field(default_factory=dict)
    delayed: set[str] = field(default_factory=set)
    down: bool = False
    refused: bool = False
    before_replace: Callable[[], object] | None = None
    log: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, key: str, value: bytes = b"", flags: int = 0, session: str = "") -> None:
        """Write whatever the key is used for."""
        with self.changed:
            self.index += 1
            self.pairs[key] = Pair(key, value, flags, session, self.index)
            self.changed.notify_all()

    def remove(self, key: str) -> None:
        """Delete as an operator would."""
        with self.changed:
            self.index += 1
            self.pairs.pop(key, None)
            self.changed.notify_all()

    def invalidate(self, session: str) -> None:
        """End a session as its TTL does: its keys are freed (or deleted) and barred for the lock delay."""
        with self.changed:
            behavior = self.sessions.pop(session, "release")
            for pair in [pair for pair in self.pairs.values() if pair.session == session]:
                self.delayed.add(pair.key)
                if behavior == "delete":
                    self.remove(pair.key)
                else:
                    self.put(pair.key, pair.value, pair.flags)


class FakeStore(ConsulStore):
    """One connection to it."""

    def __init__(self, consul: FakeConsul) -> None:
        self.consul = consul
        self.closed = False

    def another(self) -> FakeStore:
        """One more connection."""
        return FakeStore(self.consul)

    def close(self) -> None:
        """Wake whoever blocks."""
        self.closed = True
        with self.consul.changed:
            self.consul.changed.notify_all()

    def _up(self) -> FakeConsul:
        if self.closed or self.consul.down:
            raise ConsulUnavailable("no answer")
        if self.consul.refused:
            raise ConsulRefused("Permission denied")
        return self.consul

    def read(
        self, key: str, *, recurse: bool, index: int = 0, wait: float = 0.0, consistent: bool = True
    ) -> Listing:
        """Blocks for at most ten seconds, whatever `wait` says."""
        assert consistent
        consul = self._up()
        with consul.changed:
            if index:
                consul.changed.wait_for(lambda: self.closed or consul.index > index, min(wait, 10))
            self._up()
            found = [p for p in consul.pairs.values() if p.key == key or (recurse and p.key.startswith(key))]
            return Listing(consul.index, tuple(found))

    def acquire(self, key: str, session: str, flags: int) -> bool:
        """As Consul: not while another has it, nor in the lock delay, nor for a session that has ended."""
        consul = self._up()
        with consul.changed:
            if session not in consul.sessions:
                raise ConsulUnavailable("invalid session")
            before = consul.pairs.get(key)
            if key in consul.delayed or (before and before.session not in ("", session)):
                return False
            consul.log.append("acquire")
            consul.put(key, flags=flags, session=session)
            return True

    def release(self, key: str, session: str, flags: int) -> bool:
        """Only what the session has."""
        consul = self._up()
        consul.log.append("release")
        before = consul.pairs.get(key)
        if before is None or before.session != session:
            return False
        consul.put(key, flags=flags)
        return True

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """Check and set."""
        consul = self._up()
        race, consul.before_replace = consul.before_replace, None
        if race:
            race()
        before = consul.pairs.get(key)
        if (before.index if before else 0) != index:
            return False
        consul.log.append("replace")
        consul.put(key, value, flags, before.session if before else "")
        return True

    def delete(self, key: str, index: int | None = None) -> bool:
        """Check and delete."""
        consul = self._up()
        before = consul.pairs.get(key)
        if before and index not in (None, before.index):
            return False
        consul.log.append("delete")
        consul.remove(key)
        return True

    def transact(self, operations: Sequence[Mapping[str, Any]], *, consistent: bool = False) -> Transaction:
        """Know `check-session` and `set`."""
        assert not consistent
        consul = self._up()
        for at, one in enumerate(operations):
            pair = consul.pairs.get(one["Key"])
            if one["Verb"] == "check-session" and (pair is None or pair.session != one["Session"]):
                return Transaction(failures=((at, "session mismatch"),))
            if one["Verb"] == "cas":
                return Transaction(failures=((at, "index is stale"),))
        for one in operations:
            if one["Verb"] == "set":
                consul.put(one["Key"], one["Value"].encode())
        return Transaction(results=tuple(replace_value(one) for one in operations))

    def create_session(self, name: str, ttl: float, behavior: Behavior) -> str:
        """Name them s1, s2, ..."""
        consul = self._up()
        consul.log.append(f"create {name} {ttl:g}")
        identity = f"s{sum(one.startswith('create') for one in consul.log)}"
        consul.sessions[identity] = behavior
        return identity

    def renew_session(self, session: str, patience: float) -> bool:
        """Whether it still is."""
        assert patience > 0
        return session in self._up().sessions

    def destroy_session(self, session: str) -> None:
        """End it; keys that it holds are barred, as with Consul."""
        consul = self._up()
        consul.log.append("destroy")
        consul.invalidate(session)

    def node_of(self, session: str) -> str:
        """All are of one node."""
        return "node1" if session in self._up().sessions else ""


def replace_value(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Consul answers for a write: the key, without the value."""
    return {name: value for name, value in operation.items() if name != "Value"}

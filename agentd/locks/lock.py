"""A lock that one process in the fleet (or a few) holds at a time, built on Consul's sessions.

It uses the same keys and flags as `consul lock`, so each excludes the other. Owns the order of a lock's life:
session, wait, monitor, release. Holding a lock is never certain, because a machine may sleep through its TTL:
a write that must not collide with another holder's goes through `fence`.
https://developer.hashicorp.com/consul/commands/lock
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from agentd.errors import AgentdError, ConsulError, LockLost
from agentd.locks.consul_store import ConsulStore, Operation, fenced
from agentd.locks.kind import Kind
from agentd.locks.monitor import Monitor
from agentd.locks.mutex import Mutex
from agentd.locks.semaphore import Semaphore
from agentd.locks.session import LONGEST, SHORTEST, Session
from agentd.locks.wait import Wait
from agentd.watch.client import ConsulClient

TTL: Final = 15.0
"""Seconds, as `consul lock` has it."""


def check_prefix(prefix: str) -> str:
    """The prefix as `consul lock` uses it: without leading and trailing slashes.

    Raises:
        ValueError: it cannot be a prefix of keys.
    """
    bare = prefix.strip("/")
    if any(part in ("", ".", "..") or not part.isprintable() for part in bare.split("/")):
        raise ValueError("give a key prefix, such as locks/deploy")
    return bare


class Lock:
    """One lock; `with Lock(...)` acquires and releases it. Only `cancel` may be called from another thread.

    Args:
        client: used in the calling thread only; the lock's own threads make their own clients.
        prefix: the lock's key is `PREFIX/.lock`.
        limit: how many may hold it at once; all contenders must use the same number.
        timeout: give up after this many seconds; 0 tries once, None waits indefinitely.
        ttl: seconds after which Consul may take it from a holder that it no longer hears from; 10 to 86400.

    Attributes:
        lost: why it was lost, or None.
        on_lost: called once with the reason, from one of the lock's threads, as soon as it is lost.

    Raises:
        ValueError: Consul would not accept the prefix, limit or TTL.
    """

    def __init__(
        self,
        client: ConsulClient | ConsulStore,
        prefix: str,
        *,
        limit: int = 1,
        timeout: float | None = None,
        ttl: float = TTL,
    ) -> None:
        if limit < 1 or not SHORTEST <= ttl <= LONGEST:
            raise ValueError(f"the limit must be at least 1, and the TTL {SHORTEST:g} to {LONGEST:g} s")
        self.prefix = check_prefix(prefix)
        self.lost: str | None = None
        self.on_lost: Callable[[str], None] | None = None
        self._limit = limit
        self._timeout = timeout
        self._ttl = ttl
        self._store = ConsulStore(client) if isinstance(client, ConsulClient) else client
        self._kind = self._kind_with(self._store)
        self._session: Session | None = None
        self._monitor: Monitor | None = None
        self._wait: Wait | None = None
        self._cancelled = False
        self._losing = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as we know."""
        return self._monitor is not None and self.lost is None

    @property
    def session(self) -> str:
        """The ID of our session that holds it, or ""."""
        return self._session.id if self._session else ""

    @property
    def guard(self) -> str:
        """The key that belongs to our session while the lock is ours; for a `check-session` operation."""
        return self._kind.guard(self.session)

    def acquire(self) -> None:
        """Wait for the lock and take it. The wait survives an outage of Consul.

        Raises:
            LockNotAcquired: timed out, cancelled, or the key is used for something else.
            ConsulError: Consul cannot or will not create a session.
        """
        if self._session is not None:
            raise RuntimeError("this lock is already held")
        self.lost = None
        reads = self._store.another()
        kind = self._kind_with(reads)
        self._wait = Wait(kind, reads, self._enter, self._timeout)
        if self._cancelled:
            self._wait.cancel()
        try:
            self._session = self._wait.run()
        except BaseException:
            reads.close()
            self._leave_unserved(self._wait.session)
            raise
        self._monitor = Monitor(kind, reads, self._session.id, self._ttl, self._lose)
        if self._session.lost:  # just now, when there was nothing to lose yet
            self._lose("its session ended while the lock was being acquired")
        self._monitor.start()

    def cancel(self) -> None:
        """Make an `acquire` in another thread, now or later, give up soon."""
        self._cancelled = True
        if self._wait is not None:
            self._wait.cancel()

    def release(self) -> None:
        """Release it: first the key, then the session, so that the next contender gets it at once.

        Raises:
            LockLost: it was no longer ours.
            ConsulError: Consul did not answer; the lock ends with its TTL.
        """
        session, monitor = self._session, self._monitor
        if session is None or monitor is None:
            raise RuntimeError("this lock is not held")
        self._session = self._monitor = None
        monitor.end()
        try:
            ours = self._kind.leave(session.id)
        except ConsulError:
            session.abandon()
            if self.lost is None:
                raise
            ours = False
        else:
            session.end()
            with suppress(AgentdError):  # an unused key does no harm
                self._kind.tidy()
        if self.lost or not ours:
            raise LockLost(f"the lock {self.prefix} was lost: {self.lost or 'its key was no longer ours'}")

    def fence(self, operations: Sequence[Operation]) -> tuple[Operation, ...]:
        """Run operations on keys in one transaction, which Consul rejects unless the lock is ours.

        See `consul_store.fenced` for the operations, the result and the errors.
        """
        if not self.held:
            raise LockLost(f"the lock {self.prefix} is not held: {self.lost or 'acquire it first'}")
        try:
            return fenced(self._store, self.guard, self.session, operations)
        except LockLost as error:
            self._lose(str(error))
            raise

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except AgentdError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def _kind_with(self, store: ConsulStore) -> Kind:
        return Mutex(store, self.prefix) if self._limit == 1 else Semaphore(store, self.prefix, self._limit)

    def _enter(self) -> Session:
        """A session that has joined the contenders."""
        name = f"agentd lock {self.prefix}"
        session = Session(self._store, name, self._ttl, self._kind.behavior, self._lose)
        try:
            self._kind.enter(session.id)
        except BaseException:
            session.end()
            raise
        session.start()
        return session

    def _leave_unserved(self, session: Session | None) -> None:
        if session is not None:
            with suppress(AgentdError):
                self._kind.leave(session.id)
            session.end()

    def _lose(self, reason: str) -> None:
        """Treat the lock as lost. A session that is lost during the wait is replaced by `Wait`."""
        with self._losing:
            monitor = self._monitor
            if monitor is None or self.lost is not None:
                return
            self.lost = reason
        monitor.end()
        if self.on_lost is not None:
            self.on_lost(reason)

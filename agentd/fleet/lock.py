"""A lock that one process in the fleet (or a few) holds at a time, on Consul's sessions.

Shared with `consul lock`: the same keys and flags, so that both keep each other out. Owns the order of a
lock's life; the wait is `turn.py`'s, the session `session.py`'s, the watch `vigil.py`'s. To hold it is never
certain, for a machine may sleep through its TTL: what must not meet another's work goes through `fence`.
https://developer.hashicorp.com/consul/commands/lock
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from agentd.errors import AgentdError, ConsulError, LockLost
from agentd.fleet.claim import Claim
from agentd.fleet.fence import Operation, fenced
from agentd.fleet.mutex import Mutex
from agentd.fleet.semaphore import Semaphore
from agentd.fleet.session import LONGEST, SHORTEST, Session
from agentd.fleet.store import ConsulStore, Store
from agentd.fleet.turn import Turn
from agentd.fleet.vigil import Vigil
from agentd.watch.client import ConsulClient

TTL: Final = 15.0
"""Seconds, as `consul lock` has it."""


def check_prefix(prefix: str) -> str:
    """The prefix as `consul lock` uses it: without slashes around it.

    Raises:
        ValueError: it names no place below which keys can lie.
    """
    bare = prefix.strip("/")
    if any(part in ("", ".", "..") or not part.isprintable() for part in bare.split("/")):
        raise ValueError("a prefix of keys is needed, such as locks/deploy")
    return bare


class Lock:
    """One lock; `with Lock(...)` acquires and releases it. Not for several threads, but for `cancel`.

    Args:
        client: used in the calling thread only; the lock's own threads make clients of their own.
        prefix: `PREFIX/.lock` is the key.
        limit: how many may hold it at once; everyone must say the same.
        timeout: seconds to wait for it at most; None waits for ever, 0 does not wait.
        ttl: seconds after which Consul may take it from a holder that is not heard of; 10 to 86400.

    Attributes:
        lost: why it was lost, or None.
        on_lost: called once with the reason, from a thread of the lock, as soon as it is lost.

    Raises:
        ValueError: a prefix, limit or TTL that Consul would not take.
    """

    def __init__(
        self,
        client: ConsulClient | Store,
        prefix: str,
        *,
        limit: int = 1,
        timeout: float | None = None,
        ttl: float = TTL,
    ) -> None:
        if limit < 1 or not SHORTEST <= ttl <= LONGEST:
            raise ValueError(f"a limit from 1 on and a TTL from {SHORTEST:g} to {LONGEST:g} s are needed")
        self.prefix = check_prefix(prefix)
        self.lost: str | None = None
        self.on_lost: Callable[[str], None] | None = None
        self._limit = limit
        self._timeout = timeout
        self._ttl = ttl
        self._store: Store = ConsulStore(client) if isinstance(client, ConsulClient) else client
        self._claim = self._claim_with(self._store)
        self._session: Session | None = None
        self._vigil: Vigil | None = None
        self._turn: Turn | None = None
        self._cancelled = False
        self._losing = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as is known now."""
        return self._vigil is not None and self.lost is None

    @property
    def session(self) -> str:
        """The ID of the session that holds it; "" if none does."""
        return self._session.id if self._session else ""

    @property
    def guard(self) -> str:
        """The key that is our session's while the lock is ours; what a `check-session` names."""
        return self._claim.guard(self.session)

    def acquire(self) -> None:
        """Wait for the lock and take it. An outage of Consul while waiting is waited through.

        Raises:
            LockNotAcquired: not in time, cancelled, or its key serves something else.
            ConsulError: Consul cannot or will not make a session.
        """
        if self._session is not None:
            raise RuntimeError("this lock is held already")
        self.lost = None
        reads = self._store.another()
        claim = self._claim_with(reads)
        self._turn = Turn(claim, reads, self._enter, self._timeout)
        if self._cancelled:
            self._turn.cancel()
        try:
            self._session = self._turn.wait()
        except BaseException:
            reads.close()
            self._leave_unserved(self._turn.session)
            raise
        self._vigil = Vigil(claim, reads, self._session.id, self._ttl, self._lose)
        if self._session.lost:  # just now, when there was nothing to lose yet
            self._lose("its session ended as it was taken")
        self._vigil.start()

    def cancel(self) -> None:
        """Have an `acquire` in another thread, under way or to come, give up soon."""
        self._cancelled = True
        if self._turn is not None:
            self._turn.cancel()

    def release(self) -> None:
        """Give it back: first the key, then the session, so that the next can have it at once.

        Raises:
            LockLost: it was not ours any more.
            ConsulError: Consul cannot be told; the lock ends with its TTL.
        """
        session, vigil = self._session, self._vigil
        if session is None or vigil is None:
            raise RuntimeError("this lock is not held")
        self._session = self._vigil = None
        vigil.end()
        try:
            ours = self._claim.leave(session.id)
        except ConsulError:
            session.abandon()
            if self.lost is None:
                raise
            ours = False
        else:
            session.end()
            with suppress(AgentdError):  # what nobody uses does no harm
                self._claim.tidy()
        if self.lost or not ours:
            raise LockLost(f"the lock {self.prefix} was lost: {self.lost or 'its key was not ours any more'}")

    def fence(self, operations: Sequence[Operation]) -> tuple[Operation, ...]:
        """Do operations on keys in one transaction that Consul refuses if the lock is not ours.

        See `fence.fenced` for what they are, what is returned and what is raised.
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

    def _claim_with(self, store: Store) -> Claim:
        return Mutex(store, self.prefix) if self._limit == 1 else Semaphore(store, self.prefix, self._limit)

    def _enter(self) -> Session:
        """A session that takes part."""
        name = f"agentd lock {self.prefix}"
        session = Session(self._store, name, self._ttl, self._claim.behavior, self._lose)
        try:
            self._claim.enter(session.id)
        except BaseException:
            session.end()
            raise
        session.start()
        return session

    def _leave_unserved(self, session: Session | None) -> None:
        if session is not None:
            with suppress(AgentdError):
                self._claim.leave(session.id)
            session.end()

    def _lose(self, reason: str) -> None:
        """Take it for lost. A session that is lost while we wait is the turn's to replace."""
        with self._losing:
            vigil = self._vigil
            if vigil is None or self.lost is not None:
                return
            self.lost = reason
        vigil.end()
        if self.on_lost is not None:
            self.on_lost(reason)

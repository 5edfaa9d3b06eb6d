"""The wait for a lock: try, block until there is news, try again.

Consul does the waiting (blocking queries); only the lock delay after a holder's death is polled for. The wait
survives outages of Consul, and replaces a session that ended meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agentd.errors import ConsulError, ConsulUnavailable, LockNotAcquired
from agentd.locks.consul_store import ConsulStore
from agentd.locks.kind import Kind, LockState
from agentd.locks.session import Session

_LONGEST: Final = 55.0
"""Seconds of one blocking query."""
_JITTER: Final = 16 / 17  # Consul adds up to a sixteenth to what it is told to wait
_PAUSE: Final = 1.0
_NOTHING: Final = LockState()


class Wait:
    """One wait.

    Args:
        kind: the lock.
        store: what `kind` reads through; closed to cancel the wait.
        enter: creates a session that has joined the contenders.
        timeout: seconds; 0 tries once, None waits indefinitely.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        kind: Kind,
        store: ConsulStore,
        enter: Callable[[], Session],
        timeout: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session: Session | None = None
        self._kind = kind
        self._store = store
        self._enter = enter
        self._timeout = timeout
        self._clock = clock
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Give up soon; may be called from any thread."""
        self._cancelled.set()
        self._store.close()

    def run(self) -> Session:
        """Wait, and return the session that now holds the lock.

        Raises:
            LockNotAcquired: timed out, cancelled, or waiting is of no use.
            ConsulError: the first session cannot be created.
        """
        deadline = None if self._timeout is None else self._clock() + self._timeout
        self.session = self._enter()
        look, trouble = _NOTHING, None
        while not self._cancelled.is_set():
            left = _LONGEST if deadline is None else max(0.0, deadline - self._clock())
            try:
                look, trouble = self._look(look, min(left * _JITTER, _LONGEST)), None
            except ConsulUnavailable as error:
                look, trouble = _NOTHING, error
                self._cancelled.wait(min(_PAUSE, left))
            if look.taken:
                return self.session
            if deadline is not None and self._clock() >= deadline:
                waited = f"timed out after {self._timeout:g} s waiting for the lock"
                why = self._why(look, trouble)
                raise LockNotAcquired(f"{waited if self._timeout else 'the lock is not free'}: {why}")
        raise LockNotAcquired("the wait for the lock was cancelled")

    def _look(self, before: LockState, wait: float) -> LockState:
        if self.session is None or self.session.lost:
            self.session = self._enter()
        look = self._kind.attempt(self.session.id, before.index, wait)
        # After the index went back (servers restored from a snapshot), blocking on it would be in vain.
        return look if look.index >= before.index else LockState(look.taken, 0, look.holders, look.delayed)

    def _why(self, look: LockState, trouble: ConsulError | None) -> str:
        if trouble is not None:
            return str(trouble)
        if look.delayed:
            return "its last holder died, and Consul keeps it locked for the lock delay (15 s by default)"
        return (
            f"held by {' and '.join(map(self._named, look.holders)) or 'another contender, who was faster'}"
        )

    def _named(self, session: str) -> str:
        node = ""
        with suppress(ConsulError):  # naming it is a courtesy, and needs one more ACL rule
            node = self._store.node_of(session)
        return f"session {session}" + (f" of node {node}" if node else "")

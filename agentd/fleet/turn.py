"""The wait for a lock: look, block until there is news, look again.

Consul does the waiting (blocking queries), so nothing here polls but the lock delay after a holder's death.
Outages of Consul are waited through, and a session that ended meanwhile is replaced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agentd.errors import ConsulError, ConsulUnavailable, LockNotAcquired
from agentd.fleet.claim import Claim, Look
from agentd.fleet.session import Session
from agentd.fleet.store import Store

_LONGEST: Final = 55.0
"""Seconds of one blocking query."""
_JITTER: Final = 16 / 17  # Consul adds up to a sixteenth to what it is told to wait
_PAUSE: Final = 1.0
_NOTHING: Final = Look()


class Turn:
    """One wait.

    Args:
        claim: what is waited for.
        store: what `claim` reads with; closed to cancel the wait.
        enter: makes a session that has entered the contest.
        timeout: seconds; None waits for ever, 0 looks once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        claim: Claim,
        store: Store,
        enter: Callable[[], Session],
        timeout: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session: Session | None = None
        self._claim = claim
        self._store = store
        self._enter = enter
        self._timeout = timeout
        self._clock = clock
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Give up soon, from any thread."""
        self._cancelled.set()
        self._store.close()

    def wait(self) -> Session:
        """Return the session that has the lock now.

        Raises:
            LockNotAcquired: out of time, cancelled, or there is no use in waiting.
            ConsulError: no first session can be made.
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
                raise LockNotAcquired(
                    f"the lock was not had within {self._timeout:g} s: {self._why(look, trouble)}"
                )
        raise LockNotAcquired("the wait for the lock was given up")

    def _look(self, before: Look, wait: float) -> Look:
        if self.session is None or self.session.lost:
            self.session = self._enter()
        look = self._claim.attempt(self.session.id, before.index, wait)
        # An index that went back (servers restored from a snapshot) would block for nothing.
        return look if look.index >= before.index else Look(look.taken, 0, look.holders, look.delayed)

    def _why(self, look: Look, trouble: ConsulError | None) -> str:
        if trouble is not None:
            return str(trouble)
        if look.delayed:
            return "its last holder died, and Consul bars it for the lock delay (15 s by default)"
        return f"held by {' and '.join(map(self._told, look.holders)) or 'someone who was faster'}"

    def _told(self, session: str) -> str:
        node = ""
        with suppress(ConsulError):  # to name it is a courtesy, and takes one more right
            node = self._store.node_of(session)
        return f"session {session}" + (f" of node {node}" if node else "")

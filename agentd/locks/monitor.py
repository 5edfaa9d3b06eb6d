"""Watches a lock that is held: one daemon thread blocks on its key and reports when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from agentd.errors import ConsulError
from agentd.locks.consul_store import ConsulStore
from agentd.locks.kind import Kind

_WAIT: Final = 55.0
_PAUSE: Final = 1.0


class Monitor:
    """Watches one lock.

    Args:
        kind: the lock; it reads through `store`.
        store: closed at the end.
        session: ours, the holder.
        patience: seconds without any answer after which the lock counts as lost.
        on_lost: called at most once, from the thread, with the reason.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        kind: Kind,
        store: ConsulStore,
        session: str,
        patience: float,
        on_lost: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._store = store
        self._session = session
        self._patience = patience
        self._on_lost = on_lost
        self._clock = clock
        self._over = threading.Event()
        self._blind_since: float | None = None
        self._thread = threading.Thread(target=self._keep, name=f"monitor-{session[:8]}", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def end(self) -> None:
        """Stop watching; may be called from any thread."""
        self._over.set()
        self._store.close()

    def look(self, index: int) -> int:
        """Check once, waiting for news if there is an index; return the next index."""
        try:
            found = self._kind.held(self._session, index, _WAIT)
        except ConsulError as error:
            return self._blind(error)
        self._blind_since = None
        if not found.taken:
            self._lose("its key was released, deleted or taken by another session")
        return found.index if found.index >= index else 0

    def _blind(self, error: ConsulError) -> int:
        """Consul does not answer; that must not last."""
        now = self._clock()
        self._blind_since = now if self._blind_since is None else self._blind_since
        if now - self._blind_since >= self._patience:
            self._lose(f"Consul did not answer for {self._patience:g} s ({error})")
        self._over.wait(_PAUSE)
        return 0

    def _keep(self) -> None:
        index = 0
        while not self._over.is_set():
            index = self.look(index)

    def _lose(self, reason: str) -> None:
        if not self._over.is_set():
            self._over.set()
            self._on_lost(reason)

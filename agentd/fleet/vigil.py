"""The watch over a lock that is held: one daemon thread that blocks on its key and tells of its loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from agentd.errors import ConsulError
from agentd.fleet.claim import Claim
from agentd.fleet.store import Store

_WAIT: Final = 55.0
_PAUSE: Final = 1.0


class Vigil:
    """One watch.

    Args:
        claim: the lock; it reads with `store`, which is closed at the end.
        store: see there.
        session: the holder, ours.
        patience: seconds without any answer after which the lock is taken for lost.
        on_lost: called at most once, from the thread, with the reason.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        claim: Claim,
        store: Store,
        session: str,
        patience: float,
        on_lost: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claim = claim
        self._store = store
        self._session = session
        self._patience = patience
        self._on_lost = on_lost
        self._clock = clock
        self._over = threading.Event()
        self._blind_since: float | None = None
        self._thread = threading.Thread(target=self._keep, name=f"vigil-{session[:8]}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Watch no longer, from any thread."""
        self._over.set()
        self._store.close()

    def look(self, index: int) -> int:
        """Look once, and wait for news if there is an index; return the next one."""
        try:
            found = self._claim.held(self._session, index, _WAIT)
        except ConsulError as error:
            return self._blind(error)
        self._blind_since = None
        if not found.taken:
            self._lose("its key was released, deleted or taken over")
        return found.index if found.index >= index else 0

    def _blind(self, error: ConsulError) -> int:
        """Nothing can be seen now: that must not last."""
        now = self._clock()
        self._blind_since = now if self._blind_since is None else self._blind_since
        if now - self._blind_since >= self._patience:
            self._lose(f"it could not be watched for {self._patience:g} s ({error})")
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

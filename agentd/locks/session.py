"""Keeps a Consul session alive, and knows from when on it must be considered lost.

Owns one daemon thread with its own connection, which renews at half the TTL. Consul ends a session no earlier
than one TTL (in practice two) after it received the last renewal. So a session that was not renewed for one
TTL, counted from when the request was *sent*, is given up here before anybody else can hold what it held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agentd.errors import ConsulError
from agentd.locks.consul_store import Behavior, ConsulStore

SHORTEST: Final = 10.0
LONGEST: Final = 86400.0
"""Seconds of TTL that Consul accepts (https://developer.hashicorp.com/consul/api-docs/session#ttl)."""
_RETRY: Final = 1.0


class Session:
    """One session of this node, from its creation to its end.

    Args:
        store: used by the constructor and by `end`; the thread has its own.
        name: what an operator sees in Consul.
        ttl: seconds, from 10 to 86400.
        behavior: what happens to its keys when it ends.
        on_lost: called once, from the thread, with the reason.
        clock: seconds, monotonic.

    Raises:
        ConsulError: Consul did not create it.
    """

    def __init__(
        self,
        store: ConsulStore,
        name: str,
        ttl: float,
        behavior: Behavior,
        on_lost: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._on_lost = on_lost
        self._clock = clock
        self._over = threading.Event()
        self._valid_until = clock() + ttl
        self.id = store.create_session(name, ttl, behavior)
        self.lost = False
        self._renewals = store.another()
        self._thread = threading.Thread(target=self._keep, name=f"session-{self.id[:8]}", daemon=True)

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    def end(self) -> None:
        """Destroy it. Release its keys first: those it still holds stay barred for the lock delay (15 s).

        If Consul cannot be reached now, it ends the session after the TTL.
        """
        self.abandon()
        with suppress(ConsulError):
            self._store.destroy_session(self.id)

    def abandon(self) -> None:
        """Stop renewing; Consul ends the session after the TTL."""
        self._over.set()
        self._renewals.close()

    def renew(self) -> float:
        """Renew once; return the seconds until the next renewal."""
        asked = self._clock()
        try:
            alive = self._renewals.renew_session(self.id, max(_RETRY, self._valid_until - asked))
        except ConsulError as error:
            left = self._valid_until - self._clock()
            if left <= 0:
                self._lose(f"the session could not be renewed for {self._ttl:g} s ({error})")
            return min(_RETRY, max(0.0, left))
        if not alive:
            self._lose("Consul has ended the session (its TTL, a failed check of the node, or an operator)")
        self._valid_until = asked + self._ttl
        return self._ttl / 2

    def _keep(self) -> None:
        pause = self._ttl / 2
        while not self._over.wait(pause):
            pause = self.renew()
        self._renewals.close()

    def _lose(self, reason: str) -> None:
        if not self._over.is_set():
            self._over.set()
            self.lost = True
            self._on_lost(reason)

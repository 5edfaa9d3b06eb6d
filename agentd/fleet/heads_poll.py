"""The one blocking query of the fleet, on the heads of all names, whatever their number.

Owns how often a node is woken, and whether what it learns is news that it was waiting for, or what happened
while nobody listened. It reads no message, and decides nothing about one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tenacity import wait_exponential, wait_random

from agentd.errors import ConsulTooLarge
from agentd.heartbeat import Heartbeat
from agentd.watch.client import Answer, ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.poller import Poller, PollerStatus
from agentd.watch.queries import KeyPrefixQuery
from agentd.watch.query import Snapshot
from agentd.watch.transport import Parameters

_SHORTEST: Final = 0.2
_A_NODE: Final = 1 / 2000
"""Seconds for each node of the fleet: so often all of them together wake."""
_BACKOFF: Final = wait_exponential(multiplier=0.25, max=1) + wait_random(0, 0.5)
"""Waits between failed attempts: short, since events wait for the new leader."""
_AT_ONCE: Final = 1.0
"""Seconds in which a query is answered whose answer was there before it was asked."""


@dataclass(frozen=True, slots=True)
class Heads:
    """What one answer says.

    Attributes:
        values: by key, of all that lies below the prefix.
        live: whether this node was listening when it came about; else it may be of any time since the node
            listened last.
    """

    values: Mapping[str, bytes]
    live: bool


@dataclass(slots=True)
class _Sight:
    """What the poller's thread knows of its last question."""

    is_first: bool = True
    live: bool = False
    too_large: bool = False


class HeadsPoll:
    """Polls the prefix, in a thread of its own.

    Args:
        prefix: of the heads.
        options: where Consul is, with the fleet's home datacenter.
        came: is given each answer that has news.
        members: the number of the fleet's nodes, as far as the agent knows.
        heartbeat: of the thread.
    """

    def __init__(
        self,
        prefix: str,
        options: ConsulOptions,
        came: Callable[[Heads], None],
        members: Callable[[], int],
        heartbeat: Heartbeat,
    ) -> None:
        self._options = options
        self._came = came
        self._members = members
        self._sight = _Sight()
        self._stop = threading.Event()
        query = KeyPrefixQuery(prefix)
        self._poller = Poller(
            query, self._connect, self._deliver, stop=self._stop, heartbeat=heartbeat, backoff=_BACKOFF
        )

    def start(self) -> None:
        """Start the thread."""
        self._poller.start()

    def close(self) -> None:
        """End it, without waiting."""
        self._poller.close()

    @property
    def status(self) -> PollerStatus:
        """Of the poller."""
        return self._poller.status

    @property
    def too_large(self) -> bool:
        """Whether so much lies below the prefix that the answer is not read."""
        return self._sight.too_large

    def _connect(self) -> ConsulClient:
        self._sight.is_first = True
        return _Client(self._options, self._sight)

    def _deliver(self, snapshot: Snapshot) -> None:
        values = {
            key: value for change in snapshot.changes for key, value in getattr(change, "values", {}).items()
        }
        self._came(Heads(values, self._sight.live))
        self._stop.wait(max(_SHORTEST, self._members() * _A_NODE))


class _Client(ConsulClient):
    """Tells whether an answer was there before it was asked for."""

    def __init__(self, options: ConsulOptions, sight: _Sight) -> None:
        super().__init__(options)
        self._sight = sight

    def get(
        self, path: str, params: Parameters = (), index: int | None = None, wait: float | None = None
    ) -> Answer:
        """See `ConsulClient`."""
        began = time.monotonic()
        try:
            answer = super().get(path, params, index, wait)
        except ConsulTooLarge:
            self._sight.too_large = True
            raise
        waited = time.monotonic() - began > _AT_ONCE
        self._sight.live = not self._sight.is_first or (bool(index) and waited)
        self._sight.is_first = self._sight.too_large = False
        return answer

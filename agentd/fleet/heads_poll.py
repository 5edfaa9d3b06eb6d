"""The fleet's only blocking query: on the heads of all names, however many there are.

Owns how often a node wakes, and whether an answer is live: news that came while the node was listening, and
not something that happened earlier. Reads no messages.
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
from agentd.watch.parsing import Parsed, parse
from agentd.watch.poller import Poller, PollerStatus
from agentd.watch.queries import KeyPrefixQuery
from agentd.watch.query import Snapshot
from agentd.watch.transport import Parameters

_SHORTEST: Final = 0.2
_A_NODE: Final = 1 / 2000
"""Seconds between two wakes of a node, for each node of the fleet: all together wake 2,000 times a second."""
_BACKOFF: Final = wait_exponential(multiplier=0.25, max=1) + wait_random(0, 0.5)
"""Wait between failed attempts: short, since events are waiting for the new leader."""
_AT_ONCE: Final = 1.0
"""Seconds within which Consul answers a query whose answer was already there when it was made."""


@dataclass(frozen=True, slots=True)
class Heads:
    """One answer.

    Attributes:
        values: the values of all keys below the prefix, by key.
        live: whether this node was listening when the change happened; otherwise it may have happened at any
            time since the node last listened.
    """

    values: Mapping[str, bytes]
    live: bool


@dataclass(slots=True)
class _Sight:
    """What the poller's thread knows about its last query."""

    is_first: bool = True
    live: bool = False
    too_large: bool = False


class HeadsPoll:
    """Polls the heads, in its own thread.

    Args:
        prefix: the prefix of the heads.
        options: the section `consul:`, with the fleet's home datacenter.
        came: called with each answer that has news.
        members: returns the number of nodes, as far as the Consul agent knows.
        heartbeat: the thread's heartbeat.
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
        """End the thread, without waiting for it."""
        self._poller.close()

    @property
    def status(self) -> PollerStatus:
        """The state of the blocking query."""
        return self._poller.status

    @property
    def too_large(self) -> bool:
        """Whether there is too much below the prefix to read the answer."""
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
    """Notes whether an answer was already there when it was asked for."""

    def __init__(self, options: ConsulOptions, sight: _Sight) -> None:
        super().__init__(options)
        self._sight = sight

    def get(
        self,
        path: str,
        params: Parameters = (),
        index: int | None = None,
        wait: float | None = None,
        read: Callable[[bytes], Parsed] = parse,
    ) -> Answer:
        """See `ConsulClient`."""
        began = time.monotonic()
        try:
            answer = super().get(path, params, index, wait, read)
        except ConsulTooLarge:
            self._sight.too_large = True
            raise
        waited = time.monotonic() - began > _AT_ONCE
        self._sight.live = not self._sight.is_first or (bool(index) and waited)
        self._sight.is_first = self._sight.too_large = False
        return answer

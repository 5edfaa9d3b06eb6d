"""What the fleet needs from the local Consul agent: this node's name and the number of members.

Caches the answers; any thread may ask. The token needs `agent:read`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from agentd.errors import ConsulError
from agentd.watch.client import ConsulClient

_AGAIN: Final = 60.0
_SOON: Final = 10.0


class LocalAgent:
    """The Consul agent on this node.

    Args:
        connect: makes a client.
        node: the node's name in the fleet, if it differs from the agent's.
        timer: monotonic seconds.
    """

    def __init__(
        self,
        connect: Callable[[], ConsulClient],
        node: str | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._timer = timer
        self._lock = threading.Lock()
        self._node = node or ""
        self._members = 1
        self._ask_at = 0.0

    @property
    def known_node(self) -> str:
        """The node's name if it is known yet, otherwise ""."""
        return self._node

    def name(self) -> str:
        """The node's name for what it writes: the machine's host name until the agent has answered."""
        try:
            return self.node()
        except ConsulError:
            return socket.gethostname()

    def node(self) -> str:
        """The node's name in the fleet.

        Raises:
            ConsulError: it is not known yet, and the agent does not answer.
        """
        with self._lock:
            if not self._node:
                with closing(self._connect()) as client:
                    self._node = client.self_info().node
            return self._node

    def members(self) -> int:
        """The number of members that the agent knows, at most a minute old; 1 if it never answered."""
        with self._lock:
            now = self._timer()
            if now >= self._ask_at:
                self._ask_at = now + _SOON
                try:
                    with closing(self._connect()) as client:
                        self._members = max(1, client.members())
                except ConsulError:  # only the pace depends on it: the last answer will do
                    return self._members
                self._ask_at = now + _AGAIN
            return self._members

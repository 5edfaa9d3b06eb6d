"""What the fleet needs to know of the local Consul agent: its node's name, and how many nodes there are.

Asked seldom and remembered; any thread may ask. Needs `agent:read`.
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
    """The agent of this node.

    Args:
        connect: makes a client.
        node: the node's name in the fleet, if it is not the agent's.
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
        """The node's name as far as it is known; "" before the first contact."""
        return self._node

    def name(self) -> str:
        """What this node calls itself in what it writes: the machine's name until the agent said its own."""
        try:
            return self.node()
        except ConsulError:
            return socket.gethostname()

    def node(self) -> str:
        """The node's name in the fleet.

        Raises:
            ConsulError: it is not known yet, and the agent does not say.
        """
        with self._lock:
            if not self._node:
                with closing(self._connect()) as client:
                    self._node = client.self_info().node
            return self._node

    def members(self) -> int:
        """How many agents it knows, as it said a minute ago at most; 1 if it never said."""
        with self._lock:
            now = self._timer()
            if now >= self._ask_at:
                self._ask_at = now + _SOON
                try:
                    with closing(self._connect()) as client:
                        self._members = max(1, client.members())
                except ConsulError:  # it is only for the pace
                    return self._members
                self._ask_at = now + _AGAIN
            return self._members

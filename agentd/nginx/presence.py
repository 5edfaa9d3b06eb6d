"""Whether an nginx runs that serves the tree, at a glance: cheap enough to ask every few seconds.

Must not judge what it serves; that takes a proof.
"""

from __future__ import annotations

import threading

from agentd.errors import HandlerError
from agentd.nginx import canary
from agentd.nginx.processes import Processes
from agentd.options import NginxOptions


class Presence:
    """Looks for one nginx; any thread may call.

    Args:
        nginx: whose configuration, pid file and canary they are.
    """

    def __init__(self, nginx: NginxOptions) -> None:
        self._nginx = nginx
        self._processes = Processes(nginx)
        self._lock = threading.Lock()

    def down(self) -> str:
        """Why nobody serves the tree, or why that cannot be told; "" if somebody does."""
        try:
            # Workers serve on without their master, and it may be hidden, as in a container.
            if self._has_master() or canary.answers(self._nginx.canary):
                return ""
        except HandlerError as error:
            return f"cannot tell whether nginx is running: {error}"
        return f"nginx is not running: no master runs with {self._nginx.conf}"

    def masterless(self) -> str:
        """Why nginx cannot be reloaded, or why that cannot be told; "" if a master runs."""
        try:
            return "" if self._has_master() else f"no master of nginx runs with {self._nginx.conf}"
        except HandlerError as error:
            return str(error)

    def _has_master(self) -> bool:
        with self._lock:
            return bool(self._processes.look().masters or self._processes.look(afresh=True).masters)

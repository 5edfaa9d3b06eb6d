"""Tells systemd how the service is doing: sd_notify and the watchdog, without a library.

Owns the protocol (sd_notify(3), sd_watchdog_enabled(3)) and nothing else. The variables are removed from the
environment, so that no program that agentd runs can speak for it. Without systemd, all of this does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final

import structlog

from agentd.heartbeat import Heartbeats

_log = structlog.get_logger()
_SEND_TIMEOUT: Final = 1.0


class Notifier:
    """Sends the state of the service to systemd.

    Args:
        environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are taken from, and removed.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = pid in ("", str(os.getpid())) and usec.isascii() and usec.isdigit()
        self.watchdog_timeout = int(usec) / 1e6 if ours and int(usec) > 0 else None
        """Seconds after which systemd ends a service that sent no `watchdog()`; None without a watchdog."""

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is complete."""
        self._send("READY=1", status)

    def reloading(self, status: str = "") -> None:
        """The configuration is being read again; `ready` ends it."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={usec}", status)

    def stopping(self, status: str = "") -> None:
        """The service is about to end."""
        self._send("STOPPING=1", status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("", text)

    def watchdog(self) -> None:
        """The service is alive; see `watchdog_timeout`."""
        self._send("WATCHDOG=1", "")

    def _send(self, state: str, status: str) -> None:
        if not self._address:
            return
        lines = [line for line in (state, status and f"STATUS={' '.join(status.split())}") if line]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(_SEND_TIMEOUT)
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:  # systemd will notice on its own; the service goes on
            _log.warning("systemd.unreachable", error=str(error))


class Watchdog:
    """Feeds systemd's watchdog, from the main loop, as long as no heartbeat is stale.

    Args:
        notifier: says whether systemd watches at all, and how closely.
        heartbeats: of all threads.
        clock: monotonic seconds.
    """

    def __init__(
        self, notifier: Notifier, heartbeats: Heartbeats, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notifier = notifier
        self._heartbeats = heartbeats
        self._clock = clock
        self._next = clock()
        self._stale: list[str] = []
        self.interval = notifier.watchdog_timeout / 3 if notifier.watchdog_timeout else None
        """Seconds within which `feed` is to be called again; None if there is no watchdog."""

    def feed(self) -> list[str]:
        """Feed it if it is due and all is well; call it at least every `interval` seconds.

        Returns:
            The names of the threads whose heartbeat is stale. While there are any, the watchdog starves,
            and systemd restarts the service once its timeout is over.
        """
        stale = self._heartbeats.stale()
        if stale != self._stale:
            self._stale = stale
            self._tell(stale)
        if self.interval and not stale and self._clock() >= self._next:
            self._notifier.watchdog()
            # Half an interval: a main loop that comes around a little early must not skip a beat.
            self._next = self._clock() + self.interval / 2
        return stale

    def _tell(self, stale: list[str]) -> None:
        if stale:
            _log.error("heartbeat.stale", threads=stale)
            self._notifier.status(f"stuck: {', '.join(stale)}")
        else:
            _log.info("heartbeat.recovered")
            self._notifier.status("recovered")

"""What the HTTP endpoints answer: alive, ready, metrics, and the whole state as JSON.

Owns the four paths. What "ready" means and what the state is, the agent says through the callables that it
hands in.

    /healthz   200 while every heartbeat is fresh, else 503 and the names of those that are not
    /readyz    200 once nothing stands in the way, else 503 and what does
    /metrics   for Prometheus
    /status    the agent's snapshot
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from agentd.errors import ConfigError
from agentd.options import StatusOptions, parse_loopback
from agentd.report.heartbeat import Heartbeats
from agentd.report.listener import Listener
from agentd.report.metrics import CONTENT_TYPE, Metrics
from agentd.report.redaction import digest
from agentd.report.request import Answer

_HEARTBEAT = "status"


class Status:
    """The endpoints, from `start` to `stop`. All callables are called from many threads.

    Args:
        options: where to listen, if at all.
        heartbeats: of all threads; the accepting one adds its own.
        metrics: rendered at /metrics.
        not_ready: why the daemon is not ready, one text a reason; empty once it is.
        snapshot: the state, of JSON's types; bytes show as their digest.
    """

    def __init__(
        self,
        options: StatusOptions,
        heartbeats: Heartbeats,
        metrics: Metrics,
        *,
        not_ready: Callable[[], Sequence[str]],
        snapshot: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._options = options
        self._heartbeats = heartbeats
        self._not_ready = not_ready
        self._listener: Listener | None = None
        self._pages: dict[str, Callable[[], Answer]] = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": lambda: Answer(HTTPStatus.OK, metrics.render(), CONTENT_TYPE),
            "/status": lambda: _json(HTTPStatus.OK, snapshot()),
        }

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens; None before `start` and when it is switched off."""
        return self._listener.address if self._listener else None

    def start(self) -> None:
        """Listen, unless switched off.

        Raises:
            ConfigError: the address is taken, or cannot be used.
        """
        if self._options.address is None:
            return
        heartbeat = self._heartbeats.register(_HEARTBEAT)
        listener = Listener(parse_loopback(self._options.address), self.answer, heartbeat)
        try:
            listener.start()
        except ConfigError:
            self._heartbeats.forget(_HEARTBEAT)
            raise
        self._listener = listener

    def stop(self) -> None:
        """Stop listening, and wait for the threads."""
        if self._listener is not None:
            self._heartbeats.forget(_HEARTBEAT)
            self._listener.stop()
            self._listener = None

    def answer(self, path: str) -> Answer:
        """The answer to a GET of `path`, without its query string."""
        page = self._pages.get(path)
        return page() if page else _json(HTTPStatus.NOT_FOUND, {"paths": sorted(self._pages)})

    def _health(self) -> Answer:
        stale = self._heartbeats.stale()
        status = HTTPStatus.SERVICE_UNAVAILABLE if stale else HTTPStatus.OK
        return _json(status, {"healthy": not stale, "stuck": stale})

    def _readiness(self) -> Answer:
        reasons = list(self._not_ready())
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return _json(status, {"ready": not reasons, "reasons": reasons})


def _json(status: HTTPStatus, value: Mapping[str, Any]) -> Answer:
    return Answer(status, json.dumps(value, indent=2, default=_told).encode() + b"\n")


def _told(value: object) -> str:
    return digest(value) if isinstance(value, bytes) else str(value)

"""What the HTTP endpoints answer: alive, ready, metrics, the whole state as JSON, and pages for a person.

Owns the paths. What "ready" means and what the state is comes from the callables that the agent passes
in.

    /healthz   200 while every heartbeat is fresh, else 503 and the names of those that are not
    /readyz    200 once the daemon is ready, else 503 and the reasons; `behind` says what is not in force
    /metrics   for Prometheus
    /status    the agent's snapshot
    /          the same as a page, see `agentd.page`
    /fleet     all nodes of the fleet, as a page
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from agentd.digest import digest
from agentd.errors import ConfigError
from agentd.heartbeat import Heartbeats
from agentd.options import StatusOptions
from agentd.report.access import Access
from agentd.report.listener import Listener
from agentd.report.metrics import CONTENT_TYPE, Metrics
from agentd.report.request import Response
from agentd.values import asked_at, parse_listening

if TYPE_CHECKING:
    from agentd.fleet.reading import Reading
    from agentd.page.pages import Pages

_HEARTBEAT: Final = "status"
_PAGES: Final = ("/", "/fleet", "/page.css", "/page.js", "/icon.svg")


class Status:
    """The endpoints, from `start` to `stop`. All callables are called from many threads.

    Args:
        options: where to listen, if at all.
        heartbeats: of all threads; the accepting one adds its own.
        metrics: rendered at /metrics.
        not_ready: why the daemon is not ready, one text per reason; empty once it is.
        behind: what is not in force although the daemon is ready, one text each.
        limited: what is learnt late, because Consul limits requests; that makes nobody unready.
        snapshot: the state, as JSON types; bytes are shown as their digest.
        recent: the newest rows of the journal's history.
        reading: reads the fleet; None without one.
    """

    def __init__(  # noqa: PLR0913 (the agent's callables, all named at the one call)
        self,
        options: StatusOptions,
        heartbeats: Heartbeats,
        metrics: Metrics,
        *,
        not_ready: Callable[[], Sequence[str]],
        behind: Callable[[], Sequence[str]],
        limited: Callable[[], Sequence[str]] = tuple,
        snapshot: Callable[[], Mapping[str, Any]],
        recent: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
        reading: Callable[[], Reading | None] = lambda: None,
    ) -> None:
        self._options = options
        self._heartbeats = heartbeats
        self._metrics = metrics
        self._not_ready = not_ready
        self._behind = behind
        self._limited = limited
        self._snapshot = snapshot
        self._recent = recent
        self._reading = reading
        self._access = Access(options)
        self._listener: Listener | None = None
        self._pages: dict[str, Callable[[], Response]] = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": lambda: Response(HTTPStatus.OK, metrics.render(), CONTENT_TYPE),
            "/status": lambda: _json(HTTPStatus.OK, snapshot()),
        } | {path: partial(self._page, path) for path in _PAGES}

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens; None before `start` and when it is switched off."""
        return self._listener.address if self._listener else None

    @property
    def url(self) -> str | None:
        """Where a program on this node reaches it, without a path; None where `address` is None."""
        if self.address is None:
            return None
        host, port = asked_at(self.address[0]), self.address[1]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return f"{'https' if self._options.cert_file else 'http'}://{where}"

    @property
    def trouble(self) -> str:
        """Why a file of the section that has changed is not in use; "" if all are."""
        return self._access.trouble

    def start(self) -> None:
        """Listen, unless switched off.

        Raises:
            ConfigError: the address is taken, or cannot be used; nor can a file of the section.
        """
        if self._options.address is None:
            return
        self._access.load()
        heartbeat = self._heartbeats.register(_HEARTBEAT)
        listener = Listener(
            parse_listening(self._options.address),
            self.answer,
            heartbeat,
            self._metrics.dropped,
            self._access,
        )
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

    def answer(self, path: str) -> Response:
        """The answer to a GET of `path`, without its query string."""
        page = self._pages.get(path)
        return page() if page else _json(HTTPStatus.NOT_FOUND, {"paths": sorted(self._pages)})

    def _page(self, path: str) -> Response:
        return self._html.answer(path)

    @cached_property
    def _html(self) -> Pages:
        from agentd.page.pages import Pages  # noqa: PLC0415 (a daemon at which nobody looks does without)

        return Pages(lambda: json.loads(_text(self._snapshot())), self._recent, self._reading)

    def _health(self) -> Response:
        stale = self._heartbeats.stale()
        status = HTTPStatus.SERVICE_UNAVAILABLE if stale else HTTPStatus.OK
        # With a token, all else needs it, and what is stuck is named after what is configured.
        named = {} if self._options.token_file else {"stuck": stale}
        return _json(status, {"healthy": not stale} | named)

    def _readiness(self) -> Response:
        reasons, behind = list(self._not_ready()), list(self._behind())
        ready = not reasons and not (behind and self._options.strict)
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        late = {"limited": limited} if (limited := list(self._limited())) else {}
        return _json(status, {"ready": ready, "reasons": reasons, "behind": behind} | late)


def _json(status: HTTPStatus, value: Mapping[str, Any]) -> Response:
    return Response(status, _text(value).encode() + b"\n")


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, default=_shown)


def _shown(value: object) -> str:
    return digest(value) if isinstance(value, bytes) else str(value)

"""Answers for the paths of the pages and of what they load.

Owns how often the fleet is read, however many look: not oftener than every two seconds, and not for more than
a fifth of the time, as a large fleet or a slow Consul takes seconds. Each method is called
by one thread at a time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import AgentdError, ConsulUnavailable
from agentd.page import node
from agentd.page.html import HTML, document, element, verdict
from agentd.report.request import Response

if TYPE_CHECKING:
    from agentd.fleet.reading import Reading

HTML_TYPE: Final = "text/html; charset=utf-8"
PAUSE: Final = 2.0
"""Seconds between two readings of the fleet."""
_RESTS: Final = 4  # times as long as the last reading took, until the next
_ASSETS: Final = {
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Pages:
    """The pages of one daemon.

    Args:
        snapshot: what /status answers, of JSON's types.
        recent: the newest rows of the journal's history.
        reading: reads the fleet now; None if there is none.
        timer: monotonic seconds.
    """

    def __init__(
        self,
        snapshot: Callable[[], Mapping[str, Any]],
        recent: Callable[[], Sequence[Mapping[str, Any]]],
        reading: Callable[[], Reading | None],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshot = snapshot
        self._recent = recent
        self._reading = reading
        self._timer = timer
        self._fleet: tuple[float, float, Response] | None = None  # when it was made, and how long it is good

    def answer(self, path: str) -> Response:
        """The answer to a GET of one of the paths of the pages."""
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            return Response(HTTPStatus.OK, files("agentd.page").joinpath(name).read_bytes(), kind)
        return self._of_node() if path == "/" else self._of_fleet()

    def _of_node(self) -> Response:
        host = socket.gethostname()
        try:
            state, recent = self._snapshot(), self._recent()
        except AgentdError as error:
            return _failure("/", "The state of this node cannot be read", str(error), in_fleet=False)
        title = f"{node.heading(state, host)} · agentd"
        return _page(HTTPStatus.OK, title, "/", node.content(state, recent, host), in_fleet="fleet" in state)

    def _of_fleet(self) -> Response:
        begun = self._timer()
        if self._fleet is None or not 0 <= begun - self._fleet[0] < self._fleet[1]:
            made = self._new_fleet()
            now = self._timer()
            self._fleet = now, max(PAUSE, _RESTS * (now - begun)), made
        return self._fleet[2]

    def _new_fleet(self) -> Response:
        try:
            reading = self._reading()
        except ConsulUnavailable as error:
            return _failure("/fleet", "The fleet cannot be read, because Consul does not answer", str(error))
        except AgentdError as error:
            return _failure("/fleet", "The fleet cannot be read", str(error))
        if reading is None:
            return _failure(
                "/fleet", "This node is in no fleet", "Add `fleet: {name: NAME}` to the configuration.",
                HTTPStatus.NOT_FOUND, in_fleet=False,
            )  # fmt: skip
        from agentd.page import fleet  # noqa: PLC0415 (only where there is one)

        here = (self._snapshot().get("fleet") or {}).get("node")
        return _page(HTTPStatus.OK, f"Fleet {reading.fleet} · agentd", "/fleet", fleet.content(reading, here))


def _page(
    status: HTTPStatus,
    title: str,
    path: str,
    parts: Iterable[HTML],
    *,
    in_fleet: bool = True,
) -> Response:
    links = [("/", "This node"), *([("/fleet", "Fleet")] if in_fleet else [])]
    return Response(status, document(title, path, links, *parts), HTML_TYPE)


def _failure(
    path: str,
    heading: str,
    why: str,
    status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE,
    *,
    in_fleet: bool = True,
) -> Response:
    parts: list[HTML] = [element("h1", heading), verdict("bad", "Nothing is known at the moment", [why])]
    return _page(status, f"{heading} · agentd", path, parts, in_fleet=in_fleet)

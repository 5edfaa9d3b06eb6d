"""From a location to an answer that is no redirect.

A route is what is asked anew for each attempt at a transfer: an address behind a redirect, or a signature,
may last only minutes. Redirects are followed from http(s) only, a few of them, and each must pass the fence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urljoin

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.fence import Fence
from agentd.apply.sources.web import Answer, ask
from agentd.errors import PermanentError
from agentd.reference import Location, parse_location
from agentd.source_options import SourceOptions

_REDIRECTS: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)


class Route(Protocol):
    """How one payload is asked for."""

    def ask(
        self, headers: Mapping[str, str], options: SourceOptions, allowance: Allowance
    ) -> AbstractContextManager[Answer]:
        """GET, with headers added. Raises what `web.ask` raises, and PermanentError."""


@dataclass(frozen=True, slots=True)
class WebRoute:
    """http:// and https://, with redirects within the fence."""

    location: Location
    fence: Fence

    @contextmanager
    def ask(
        self, headers: Mapping[str, str], options: SourceOptions, allowance: Allowance
    ) -> Iterator[Answer]:
        """See `Route`."""
        location = self.location
        for _ in range(options.redirects + 1):
            with ask(location.url, headers, options, allowance) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                location = self._next(location, answer.headers.get("Location", ""))
        raise PermanentError(f"{self.location}: more than {options.redirects} redirects (sources.redirects)")

    def _next(self, location: Location, target: str) -> Location:
        try:
            found = parse_location(urljoin(location.url, target).partition("#")[0])
        except ValueError as error:
            raise PermanentError(f"{location}: it redirects to what is no usable address: {error}") from error
        if found.scheme not in ("http", "https"):
            raise PermanentError(f"{location}: it redirects to {found.scheme}:, which is not followed")
        try:
            self.fence.check(found)
        except PermanentError as error:
            raise PermanentError(f"{location}: it redirects to where it may not: {error}") from error
        return found


@dataclass(frozen=True, slots=True)
class SignedRoute:
    """An object store: URL and headers are made anew for each attempt, and it may not send us elsewhere.

    Args:
        source: the object, as it may be told.
        sign: returns the URL and the headers to ask it with; both may hold secrets.
    """

    source: str
    sign: Callable[[Allowance], tuple[str, Mapping[str, str]]]

    @contextmanager
    def ask(
        self, headers: Mapping[str, str], options: SourceOptions, allowance: Allowance
    ) -> Iterator[Answer]:
        """See `Route`."""
        url, signed = self.sign(allowance)
        with ask(url, {**headers, **signed}, options, allowance) as answer:
            if answer.status in _REDIRECTS:
                raise PermanentError(
                    f"{self.source}: the store points elsewhere ({answer.status}): correct the region or "
                    "the endpoint in sources"
                )
            yield answer

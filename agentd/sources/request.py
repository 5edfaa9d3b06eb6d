"""Asks for one payload over HTTP: redirects, signatures, and what a status or a broken connection means.

A request is sent anew for each attempt at a transfer: an address behind a redirect, or a signature, may last
only minutes. Redirects are followed from http(s) only, a few of them, and each must pass the allowlist. It
must not write a file, repeat a request, or quote a query, a header or a body: they may hold secrets.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urljoin, urlsplit

from agentd import __version__
from agentd.deadline import Deadline
from agentd.errors import HandlerError, PermanentError, TemporaryError
from agentd.http import Body, CertificateError, Connection, ExchangeError, Headers, TCPAddress, Timeouts
from agentd.sources.allowlist import Allowlist
from agentd.sources.options import SourceOptions
from agentd.sources.reference import Location, parse_location
from agentd.sources.validators import retry_after

_USER_AGENT: Final = f"agentd/{__version__}"
_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_RETRIED: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class Request(Protocol):
    """How one payload is asked for."""

    def send(
        self, headers: Mapping[str, str], options: SourceOptions, deadline: Deadline
    ) -> AbstractContextManager[Body]:
        """GET with these headers added; the connection ends with the context.

        Raises:
            ExchangeError: there is no answer; also while the body is read.
            PermanentError: a redirect may not be followed, or `sources.ca_file` cannot be used.
            TemporaryError: no time is left.
        """


@dataclass(frozen=True, slots=True)
class WebRequest:
    """http:// and https://, with the redirects that the allowlist lets pass."""

    location: Location
    allowlist: Allowlist

    @contextmanager
    def send(self, headers: Mapping[str, str], options: SourceOptions, deadline: Deadline) -> Iterator[Body]:
        """See `Request`."""
        location = self.location
        for _ in range(options.redirects + 1):
            with _get(location.url, headers, options, deadline) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                location = self._next(location, answer.headers.get("Location", ""))
        raise PermanentError(f"{self.location}: more than {options.redirects} redirects (sources.redirects)")

    def _next(self, location: Location, target: str) -> Location:
        if not target:
            raise PermanentError(f"{location} redirects without saying where")
        try:
            found = parse_location(urljoin(location.url, target).partition("#")[0])
        except ValueError as error:
            raise PermanentError(f"{location} redirects to an unusable address: {error}") from error
        if found.scheme not in _PORTS:
            raise PermanentError(f"{location} redirects to {found.scheme}:, which is not followed")
        try:
            self.allowlist.check(found)
        except PermanentError as error:
            raise PermanentError(f"{location} redirects to a place that is not allowed: {error}") from error
        return found


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """An object in a store: URL and headers are signed anew each time, and no redirect is followed.

    Args:
        source: the object, as messages name it.
        sign: returns the URL and the headers to send; both may hold secrets.
    """

    source: str
    sign: Callable[[Deadline], tuple[str, Mapping[str, str]]]

    @contextmanager
    def send(self, headers: Mapping[str, str], options: SourceOptions, deadline: Deadline) -> Iterator[Body]:
        """See `Request`."""
        url, signed = self.sign(deadline)
        with _get(url, {**headers, **signed}, options, deadline) as answer:
            if answer.status in _REDIRECTS:
                raise PermanentError(
                    f"{self.source}: the store redirects elsewhere ({answer.status}): correct the region or "
                    "the endpoint in sources"
                )
            yield answer


@contextmanager
def _get(url: str, headers: Mapping[str, str], options: SourceOptions, deadline: Deadline) -> Iterator[Body]:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    tls = _tls(options) if parts.scheme == "https" else None
    with Connection(TCPAddress(parts.hostname or "", parts.port or _PORTS[parts.scheme], tls)) as connection:
        yield connection.send(
            target,
            headers={"Connection": "close", "User-Agent": _USER_AGENT, **headers},
            timeout=Timeouts(deadline.left(), options.connect_timeout, options.read_timeout, deadline.stop),
        )


def _tls(options: SourceOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise PermanentError(f"{options.ca_file} cannot be used: correct sources.ca_file") from error
    # Python ignores a connection that ends without notice; a body without a length could be cut unnoticed.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


def refusal(source: str, status: int, headers: Headers) -> HandlerError:
    """What a status other than success means; the caller raises it."""
    phrase = http.client.responses.get(status, "an unknown status")
    said = f"{source}: the server answered {status} ({phrase})"
    if status in _RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TemporaryError(said, retry_after=retry_after(headers.get("Retry-After")))
    return PermanentError(f"{said}: correct the reference, or what is served there")


def unanswered(source: str, error: ExchangeError) -> TemporaryError:
    """What a broken exchange means; the caller raises it from `error`."""
    advice = ": see sources.ca_file" if isinstance(error, CertificateError) else ""
    return TemporaryError(f"{source}: {error}{advice}")

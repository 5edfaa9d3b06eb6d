"""One HTTP request and its answer, over a connection of its own.

It owns the connection, its time limits, and what an HTTP status or a broken connection means. It must not
write a file, repeat a request, or quote a query, a header or a body: they may hold secrets.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.head import WholeHead
from agentd.errors import HandlerError, PermanentError, TemporaryError
from agentd.source_options import SourceOptions

BREAKAGES: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
"""All that a connection can raise; `explain` turns it into words."""

LONGEST_WAIT: Final = 3600.0
"""Seconds that a server's Retry-After may ask for."""

_HEADERS: Final = {
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"agentd/{version('agentd')}",
}
_RETRIED: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_GUARD_STEP: Final = 0.25


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is not read yet."""

    status: int
    headers: Mapping[str, str]
    _response: urllib3.HTTPResponse

    def read(self, count: int) -> bytes:
        """Read on; b"" at the end.

        Raises:
            BREAKAGES: the body breaks off.
        """
        return self._response.read(count, decode_content=False)

    def number(self, name: str) -> int | None:
        """A header that is a plain number, or None."""
        text = self.headers.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None  # noqa: PLR2004 (2**64)


@contextmanager
def ask(
    url: str, headers: Mapping[str, str], options: SourceOptions, allowance: Allowance
) -> Iterator[Answer]:
    """GET, without following a redirect; the connection ends with the context.

    Raises:
        BREAKAGES: there is no answer.
        TemporaryError: the time is over.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with ExitStack() as stack:
        connection = _connection(url, options)
        connection.response_class = WholeHead
        stack.callback(connection.close)
        connection.timeout = min(options.connect_timeout, allowance.left())
        with _guarded(connection, allowance):
            connection.connect()
        connection.timeout = options.read_timeout
        connection.request(
            "GET", target, headers={**_HEADERS, **headers}, preload_content=False, decode_content=False
        )
        with _guarded(connection, allowance):
            response = connection.getresponse()
            stack.callback(response.close)
            yield Answer(response.status, response.headers, response)


def _connection(url: str, options: SourceOptions) -> HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return HTTPConnection(parts.hostname or "", parts.port)
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise PermanentError(f"{options.ca_file} cannot be used: correct sources.ca_file") from error
    return HTTPSConnection(parts.hostname or "", parts.port, ssl_context=context)


@contextmanager
def _guarded(connection: HTTPConnection, allowance: Allowance) -> Iterator[None]:
    """Cut the connection when the time is over: a byte now and then outlives every time-out."""
    # While it connects there is no socket yet; once it answers, the connection may give its socket away.
    held = connection.sock
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_GUARD_STEP):
            waiting = held or connection.sock
            if allowance.over and waiting is not None:
                # The plain socket's shutdown for TLS as well: it wakes the reader and touches no TLS state.
                with suppress(OSError):
                    socket.socket.shutdown(waiting, socket.SHUT_RDWR)

    guard = threading.Thread(target=watch, name="source guard", daemon=True)
    guard.start()
    try:
        yield
    finally:
        done.set()
        guard.join()


def refusal(source: str, answer: Answer) -> HandlerError:
    """What a status that is no success means; the caller raises it."""
    status = answer.status
    phrase = http.client.responses.get(status, "an unknown status")
    said = f"{source}: the server answered {status} ({phrase})"
    if status in _RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TemporaryError(said, retry_after=retry_after(answer.headers.get("Retry-After")))
    return PermanentError(f"{said}: correct the reference, or what lies there")


def retry_after(text: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, at most `LONGEST_WAIT`; None if it says nothing usable.

    RFC 9110, 10.2.3: seconds, or a date.
    """
    if not text:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_WAIT)
    try:
        wanted = parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
    except (ValueError, OverflowError):
        return None
    return min(max(wanted, 0.0), LONGEST_WAIT)


def explain(source: str, error: BaseException) -> TemporaryError:
    """Say what broke; the caller raises it from `error`."""
    cause = error.__cause__ if isinstance(error, urllib3.exceptions.HTTPError) and error.__cause__ else error
    match cause:
        case ssl.SSLCertVerificationError():
            why = getattr(cause, "verify_message", "no reason given")  # missing if Python raised it
            problem = f"its certificate is not trusted ({why}): see sources.ca_file"
        case ssl.SSLError():
            problem = f"TLS failed ({getattr(cause, 'reason', 'no reason given')})"
        case ConnectionRefusedError():
            problem = "nothing listens there"
        case socket.gaierror():
            problem = "the host name cannot be resolved"
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            problem = "no answer in time"
        case _:
            problem = f"the connection broke ({type(cause).__name__})"
    return TemporaryError(f"{source}: {problem}")

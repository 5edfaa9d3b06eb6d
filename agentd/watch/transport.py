"""Requests to one Consul agent, over one connection, and their answers as bytes.

Owns the time limits, the size limit, the token on every request, and the end of the connection; turns
failures on the way, and HTTP statuses that say no, into a `ConsulError`. It does not know what an answer
means. py-consul's endpoints send their requests through it as well.
"""

from __future__ import annotations

import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partialmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from agentd import http
from agentd.errors import ConsulError, ConsulLimited, ConsulRefused, ConsulTooLarge, ConsulUnavailable
from agentd.watch.credentials import Credentials
from agentd.watch.options import ANSWER_TIME, ConsulOptions
from agentd.watch.py_consul import ConsulException, base

if TYPE_CHECKING:
    from ssl import SSLContext

LARGEST: Final = 64 * 1024 * 1024
"""Bytes that one answer may have."""
_LARGEST_OF_ONE: Final = 1024 * 1024  # bytes of an answer about one thing, such as the agent itself
_BODY_TIME: Final = 30.0  # seconds for the body, once the answer has begun
_TLS_FILES: Final = ("ca_file", "ca_path", "cert_file", "key_file")
_OUTWAIT_STEP: Final = 0.25  # seconds, if Consul does not say
_SECONDS_DIGITS: Final = 6
_READ: Final = 65536  # bytes of an error's text that we look at, ...
_QUOTED: Final = 200  # ... and characters that we repeat

Parameters = Iterable[tuple[str, str]]


class ACLsDisabledError(ConsulRefused):
    """Consul has no ACLs, so it cannot say what a token may do."""


class Transport(base.HTTPClient):  # type: ignore[misc] # py-consul ships no type information
    """One connection. One thread makes requests; `close` may be called from any."""

    def __init__(self, options: ConsulOptions) -> None:
        self._connect_timeout = options.connect_timeout
        self._options = options
        self._endpoint = options.endpoint
        self._credentials = Credentials(options)
        self._connection = http.Connection(_address(options))
        self._busy = threading.Lock()
        self._closed = False
        self._end = math.inf
        self._given_up = threading.Event()

    def end_by(self, at: float) -> None:
        """Give up whatever is not answered by then (monotonic seconds), and ask nothing after it."""
        self._end = at

    def time_left(self) -> float:
        """Seconds until the time set by `end_by`; infinite without one."""
        return max(0.0, self._end - time.monotonic())

    def request(
        self,
        method: str,
        path: str,
        params: Parameters | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = ANSWER_TIME,
    ) -> http.Response:
        """Send one request and return the answer: a success, a 404 or a 409.

        A 404 can mean "nothing there"; with a 409 a transaction says what it was rolled back for.

        Args:
            method: GET, PUT, POST or DELETE.
            path: unquoted, such as "/v1/kv/a b".
            params: of the query string, unquoted.
            body: what to send.
            headers: added to ours; a token in them takes precedence.
            patience: seconds until the answer must have begun.

        Raises:
            ConsulUnavailable: no connection, no answer in time, an answer cut off, a 5xx; ConsulLimited for
                a 429, and for a 503 by which a leader limits requests.
            ConsulRefused: another 4xx, a redirect; ConsulTooLarge for an answer larger than `LARGEST`.
        """
        target = quote(path, safe="/:") + (f"?{urlencode(list(params))}" if params else "")
        until = min(time.monotonic() + self._options.outwait, self._end)
        while True:
            try:
                return self._ask(method, target, path, body, headers or {}, patience)
            except ConsulLimited as error:  # nothing was done yet, whatever was asked for
                wait = (error.retry_after or _OUTWAIT_STEP) * random.uniform(1.0, 1.25)  # noqa: S311 (jitter)
                if time.monotonic() + wait > until or self._closed:
                    raise
            self._given_up.wait(wait)

    def _ask(
        self,
        method: str,
        target: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        patience: float,
    ) -> http.Response:
        reply = self._send(method, target, body, headers, patience)
        if reply.status == HTTPStatus.FORBIDDEN and self._credentials.renew():
            reply = self._send(method, target, body, headers, patience)
        self._check(reply, path)
        return reply

    def close(self) -> None:
        """Give up the connection for good, from any thread; a request under way fails at once."""
        self._closed = True
        self._given_up.set()
        self._connection.abort()
        if self._busy.acquire(blocking=False):  # else the thread that is busy closes the connection
            self._connection.close()
            self._busy.release()

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: float
    ) -> http.Response:
        left = self.time_left()
        if not left:
            raise ConsulUnavailable(f"{self._endpoint} was not asked, since the time for that was up")
        total = min(left, self._connect_timeout + patience + _BODY_TIME)
        timeouts = http.Timeouts(total, connect=self._connect_timeout, idle=patience)
        sent = self._credentials.headers | dict(headers)
        with self._busy:
            finished = False
            try:
                answer = self._connection.send(
                    target, method=method, headers=sent, body=body, timeout=timeouts
                )
                reply = http.Response(answer.status, answer.headers, self._read(answer))
                finished = not self._closed
            except http.ExchangeError as error:
                raise self._explain(error) from error
            finally:
                if not finished:
                    self._connection.close()
        return reply

    def _read(self, answer: http.Body) -> bytes:
        deadline = time.monotonic() + _BODY_TIME
        received = bytearray()
        for chunk in answer:
            received += chunk
            if len(received) > LARGEST:
                raise ConsulTooLarge(f"the answer has more than {LARGEST} bytes: narrow the query")
            if time.monotonic() > deadline:
                raise ConsulUnavailable(f"{self._endpoint} did not finish its answer within {_BODY_TIME:g} s")
        return bytes(received)

    def _explain(self, error: http.ExchangeError) -> ConsulError:
        return (
            ConsulUnavailable("this client was closed")
            if self._closed
            else _explanation(error, self._options)
        )

    def _check(self, reply: http.Response, path: str) -> None:
        status = reply.status
        if status < HTTPStatus.MULTIPLE_CHOICES or status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            return
        text = self._credentials.hide(re.sub(r"[^ -~]+", " ", reply.body[:_READ].decode(errors="replace")))[
            :_QUOTED
        ].strip()
        said = f"Consul answered {path} with {status}" + (f" ({text})" if text else "")
        token = self._options.name_of("token_file")
        if status < HTTPStatus.BAD_REQUEST:
            raise ConsulRefused(
                f"{said}, a redirect, which is not followed: correct {self._options.name_of('address')}"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            raise ACLsDisabledError(f"{said}: enable ACLs in Consul, or remove {token}")
        if status == HTTPStatus.FORBIDDEN:
            raise ConsulRefused(f"{said}: grant the token that right, or name one that has it in {token}")
        if _limits(reply):
            raise ConsulLimited(
                f"{said}: it limits requests; ask less often, or raise its `limits`", _retry_after(reply)
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConsulUnavailable(f"{said}: see the Consul servers' log")
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise ConsulRefused(f"{said}: it takes no body of that size; fire or write a reference instead")
        raise ConsulRefused(f"{said}: check the names and options that the query uses")

    def _call(  # noqa: PLR0913 (py-consul's signature)
        self,
        method: str,
        callback: Callable[[base.Response], Any],
        path: str,
        params: Parameters | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        raw: bool = False,
    ) -> Any:  # noqa: ANN401 (whatever the callback returns)
        """Send py-consul's request; its callback parses the answer."""
        body = data.encode() if isinstance(data, str) else data
        reply = self.request(method, path, params, body=body or None, headers=headers)
        if len(reply.body) > _LARGEST_OF_ONE:  # the library parses it without a limit
            raise ConsulRefused(f"Consul's answer to {path} has more than {_LARGEST_OF_ONE} bytes")
        content = reply.body if raw else reply.body.decode(errors="replace")
        try:
            return callback(base.Response(reply.status, reply.headers, content))
        except (ConsulException, ValueError, RecursionError) as error:
            raise ConsulRefused(
                f"Consul's answer to {path} cannot be understood ({type(error).__name__})"
            ) from error

    get = partialmethod(_call, "GET")
    put = partialmethod(_call, "PUT")
    post = partialmethod(_call, "POST")
    delete = partialmethod(_call, "DELETE")


def _limits(reply: http.Response) -> bool:
    """Whether Consul has had too many requests, and nothing else is wrong.

    A leader says so with 503 (https://developer.hashicorp.com/consul/docs/manage/rate-limit).
    """
    if reply.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return b"rate limit" in reply.body or "Retry-After" in reply.headers
    return reply.status == HTTPStatus.TOO_MANY_REQUESTS


def _retry_after(reply: http.Response) -> float | None:
    """Seconds; None if it is not given, or as a date: that would depend on two clocks."""
    text = reply.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) <= _SECONDS_DIGITS else None


def _address(options: ConsulOptions) -> http.Address:
    """Where to connect, and how.

    Raises:
        ConsulRefused: a TLS file cannot be used.
    """
    endpoint = options.endpoint
    if endpoint.socket:
        return http.UnixAddress(endpoint.socket)
    if endpoint.scheme == "https":
        return http.TCPAddress(endpoint.host, endpoint.port, _tls(options), options.tls_server_name or "")
    return http.TCPAddress(endpoint.host, endpoint.port)


def _tls(options: ConsulOptions) -> SSLContext:
    import ssl  # noqa: PLC0415 (most agents are asked without TLS)

    try:
        context = ssl.create_default_context(cafile=options.ca_file, capath=options.ca_path)
        if not options.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(
            f"{options.name_of(name)}: {file}" for name in _TLS_FILES if (file := getattr(options, name))
        )
        raise ConsulRefused(f"TLS files cannot be used ({error.strerror}): correct {files}") from error
    return context


def _explanation(error: http.ExchangeError, options: ConsulOptions) -> ConsulUnavailable:
    """Say what broke and what the operator can do; the caller raises it from `error`."""
    endpoint, address = options.endpoint, options.name_of("address")
    cause = error if isinstance(error, http.ExchangeTimeoutError) else error.__cause__
    match cause:
        case http.ExchangeTimeoutError() | TimeoutError():
            problem = f"{endpoint} did not answer in time: see the Consul agent's log"
        case OSError() if hasattr(cause, "library"):  # an SSLError, without importing `ssl` to tell
            names = ", ".join(map(options.name_of, ("ca_file", "cert_file")))
            problem = f"TLS with {endpoint} failed ({error}): check {names} and {address}"
        case ConnectionRefusedError() | FileNotFoundError():
            problem = f"no Consul agent listens on {endpoint}: start it, or correct {address}"
        case PermissionError():
            problem = f"no permission to connect to {endpoint}: give agentd's user access to it"
        case socket.gaierror():
            problem = f"the host name in {endpoint} cannot be resolved: correct {address}"
        case _:
            problem = f"the connection to {endpoint} broke ({error}): see the Consul agent's log"
    return ConsulUnavailable(problem)

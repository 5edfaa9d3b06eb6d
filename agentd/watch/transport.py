"""Requests to one Consul agent, over one connection, and their answers as bytes.

Owns the time limits, the size limit, the token on every request, and the end of the connection; turns what
goes wrong on the way, or an HTTP status that says no, into a `ConsulError`. What an answer means is not its
business. py-consul's endpoints send their requests through it as well.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partialmethod
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3
from consul import base  # type: ignore[import-untyped] # py-consul ships no type information
from consul.exceptions import ConsulException  # type: ignore[import-untyped] # as above

from agentd.errors import ConsulError, ConsulRefused, ConsulUnavailable
from agentd.watch.connection import BREAKAGES, connection, explain
from agentd.watch.credentials import Credentials
from agentd.watch.options import ANSWER_TIME, ConsulOptions

LARGEST: Final = 64 * 1024 * 1024
"""Bytes that one answer may have."""
_CHUNK: Final = 256 * 1024
_BODY_TIME: Final = 30.0  # seconds for the body, once the answer has begun
_QUOTED: Final = 200  # characters of an error's text that we repeat

Parameters = Iterable[tuple[str, str]]


class ACLsDisabledError(ConsulRefused):
    """Consul has no ACLs, so it cannot say what a token may do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, whatever its status. `headers` finds a header in any spelling."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(base.HTTPClient):  # type: ignore[misc] # py-consul ships no type information
    """One connection. One thread makes requests; `close` may be called from any."""

    def __init__(self, options: ConsulOptions) -> None:
        self._connect_timeout = options.connect_timeout
        self._endpoint = options.endpoint
        self._credentials = Credentials(options.token_file)
        self._connection = connection(options)
        self._busy = threading.Lock()
        self._closed = False

    def request(
        self,
        method: str,
        path: str,
        params: Parameters | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = ANSWER_TIME,
    ) -> Reply:
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
            ConsulUnavailable: no connection, no answer in time, an answer cut off, a 5xx or 429.
            ConsulRefused: another 4xx, a redirect, or an answer larger than `LARGEST`.
        """
        target = quote(path, safe="/:") + (f"?{urlencode(list(params))}" if params else "")
        reply = self._send(method, target, body, headers or {}, patience)
        if reply.status == HTTPStatus.FORBIDDEN and self._credentials.renew():
            reply = self._send(method, target, body, headers or {}, patience)
        self._check(reply, path)
        return reply

    def close(self) -> None:
        """Give up the connection for good, from any thread; a request under way fails at once."""
        self._closed = True
        waiting = self._connection.sock
        if waiting is not None:
            # The plain socket's shutdown for TLS as well: it wakes the reader and touches no TLS state.
            # An error means that the other side was faster.
            with suppress(OSError):
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)
        if self._busy.acquire(blocking=False):  # else the thread that is busy closes the connection
            self._connection.close()
            self._busy.release()

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: float
    ) -> Reply:
        with self._busy:
            finished = False
            try:
                reply = self._exchange(
                    method, target, body, self._credentials.headers | dict(headers), patience
                )
                finished = not self._closed
            except BREAKAGES as error:
                raise self._explain(error) from error
            finally:
                if not finished:
                    self._connection.close()
        return reply

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: float
    ) -> Reply:
        connection = self._connection
        if not connection.is_connected:  # Consul may have hung up while we were idle
            connection.close()
            connection.timeout = self._connect_timeout
            connection.connect()
        if self._closed:  # after connecting: from here on `close` finds a socket to shut down
            raise ConsulUnavailable("this client was closed")
        connection.timeout = patience
        connection.request(method, target, body=body, headers=headers, preload_content=False)
        response = connection.getresponse()
        return Reply(response.status, response.headers, self._read(response))

    def _read(self, response: urllib3.HTTPResponse) -> bytes:
        deadline = time.monotonic() + _BODY_TIME
        received = bytearray()
        while chunk := response.read(_CHUNK):
            received += chunk
            if len(received) > LARGEST:
                raise ConsulRefused(f"the answer has more than {LARGEST} bytes: narrow the query")
            if time.monotonic() > deadline:
                raise ConsulUnavailable(f"{self._endpoint} did not finish its answer within {_BODY_TIME:g} s")
        return bytes(received)

    def _explain(self, error: Exception) -> ConsulError:
        return ConsulUnavailable("this client was closed") if self._closed else explain(error, self._endpoint)

    def _check(self, reply: Reply, path: str) -> None:
        status = reply.status
        if status < HTTPStatus.MULTIPLE_CHOICES or status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            return
        text = self._credentials.hide(re.sub(r"[^ -~]+", " ", reply.body.decode(errors="replace")))[
            :_QUOTED
        ].strip()
        said = f"Consul answered {path} with {status}" + (f" ({text})" if text else "")
        if status < HTTPStatus.BAD_REQUEST:
            raise ConsulRefused(
                f"{said}, a redirect, which is not followed: correct consul.address or the path"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            raise ACLsDisabledError(f"{said}: enable ACLs in Consul, or do without token_file")
        if status == HTTPStatus.FORBIDDEN:
            raise ConsulRefused(
                f"{said}: give the token the right, or put a token that has it into token_file"
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            raise ConsulUnavailable(f"{said}: see the Consul servers' log")
        raise ConsulRefused(f"{said}: correct what is asked for")

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
        content = reply.body if raw else reply.body.decode(errors="replace")
        try:
            return callback(base.Response(reply.status, reply.headers, content))
        except ConsulException as error:
            raise ConsulRefused(
                f"Consul's answer to {path} makes no sense ({type(error).__name__})"
            ) from error

    get = partialmethod(_call, "GET")
    put = partialmethod(_call, "PUT")
    post = partialmethod(_call, "POST")
    delete = partialmethod(_call, "DELETE")

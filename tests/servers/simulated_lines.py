"""Connections of simulated nodes to Consul agents, with as little between as possible.

An answer that many nodes of a process get is parsed once: each of them would do that on a processor of its
own. Every node asks all its questions itself, over its own connections.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from agentd.errors import ConsulUnavailable
from agentd.fleet import envelope, head, reader, writer
from agentd.fleet.kv import MOST_READS, ConsulKV
from agentd.fleet.pruning import mark
from agentd.http import Headers, Response
from agentd.watch.client import Answer
from agentd.watch.kv import Pair, pair_of

_HEAD_OF_ANSWER: Final = 250  # bytes, about
_ONE_READ: Final = 1 << 18
_NO_HEADERS: Final = Headers()

parse_body = lru_cache(64)(json.loads)
decode_value = lru_cache(64)(base64.b64decode)
parse_head = lru_cache(256)(head.parse_head)
parse_message = lru_cache(4096)(envelope.parse_envelope)
_messages: dict[str, Pair] = {}
"""What some node of this process has read: it is immutable, so the others need not parse it again."""


def share_parsing() -> None:
    """Parse once in this process what all its nodes read alike."""
    vars(reader)["parse_envelope"] = parse_message
    vars(writer)["parse_head"] = parse_head
    vars(writer)["mark"] = lru_cache(16384)(mark)


class Line:
    """One connection to an agent, with as little between as possible; what it carries is counted.

    Stands for `ConsulClient` where the key-value store asks one, and then waits for the answer.
    """

    def __init__(self, address: str, patience: float = 10.0) -> None:
        host, _, port = address.rpartition(":")
        self.received = self.sent = 0
        self._address = host, int(port)
        self._head = f" HTTP/1.1\r\nHost: {address}\r\n"
        self._patience = patience
        self._socket: socket.socket | None = None
        self._buffer = b""

    def ask(self, method: str, target: str, body: bytes = b"") -> int:
        """Send a question; returns the descriptor from which the answer is to be read. Raises OSError."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._patience)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = f"{method} {target}{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.sent += len(request)
        self._buffer = b""
        self._socket.sendall(request)
        return self._socket.fileno()

    def answer(self, flags: int = 0) -> Answer | None:
        """Read once; the answer if it is complete.

        Raises:
            OSError: the connection broke.
            ConsulUnavailable: a 5xx.
        """
        if self._socket is None:
            raise ConnectionError("not connected")
        chunk = self._socket.recv(_ONE_READ, flags)
        if not chunk:
            raise ConnectionError("closed")
        self._buffer += chunk
        found = _complete(self._buffer)
        if found is None:
            return None
        self.received += _HEAD_OF_ANSWER + len(found.raw)
        if found.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConsulUnavailable(f"status {found.status}")
        return found

    def close(self) -> None:
        """Hang up; the next question connects again."""
        one, self._socket = self._socket, None
        if one is not None:
            one.close()

    def get(
        self, path: str, params: Iterable[tuple[str, str]] = (), index: int | None = None, wait: float = 0.0
    ) -> Answer:
        """See `ConsulClient`; nothing that blocks."""
        assert not index, wait
        found = self._exchange("GET", path, params, b"")
        parsed = parse_body(found.raw) if found.status == HTTPStatus.OK else None
        return Answer(found.status, found.index, parsed)

    def send(
        self, method: str, path: str, params: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Response:
        """See `ConsulClient`."""
        found = self._exchange(method, path, params, body)
        return Response(found.status, _NO_HEADERS, found.raw)

    def _exchange(self, method: str, path: str, params: Iterable[tuple[str, str]], body: bytes) -> Answer:
        query = "&".join(f"{name}={value}" for name, value in params)
        try:
            self.ask(method, f"{path}?{query}" if query else path, body)
            while (found := self.answer()) is None:
                pass
        except OSError as error:
            self.close()
            raise ConsulUnavailable(f"no answer ({type(error).__name__})") from error
        return found


def _complete(data: bytes) -> Answer | None:
    """The answer with its body as bytes, once all of it is there."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    status, index = int(head[9:12]), _number(head, b"X-Consul-Index: ")
    length = _number(head, b"Content-Length: ")
    if length or b"chunked" not in head:
        return Answer(status, index, body) if len(body) >= length else None
    if not body.endswith(b"\r\n0\r\n\r\n"):
        return None
    chunks: list[bytes] = []
    at = 0
    while True:
        begins = body.index(b"\r\n", at) + 2
        size = int(body[at:begins], 16)
        if not size:
            return Answer(status, index, b"".join(chunks))
        chunks.append(body[begins : begins + size])
        at = begins + size + 2
        if at >= len(body):  # what ends like the answer is in the midst of it
            return None


def _number(head: bytes, name: bytes) -> int:
    at = head.find(name)
    return int(head[at + len(name) :].partition(b"\r")[0]) if at >= 0 else 0


class WaitingKV(ConsulKV):
    """Consul's, which parses a message once."""

    def __init__(self, line: Line) -> None:
        self._line = line

    @property
    def _client(self) -> Any:  # noqa: ANN401 (only what the store asks of a client)
        return self._line

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:  # noqa: ARG002 (as they are)
        """See `KV`."""
        wanted = list(keys)
        found: dict[str, Pair] = {}
        for at in range(0, len(wanted), MOST_READS):
            some = wanted[at : at + MOST_READS]
            found |= _pairs_in(self._line.send("PUT", "/v1/txn", (), _reads(some)).body, some)
        return found


def _reads(keys: Sequence[str]) -> bytes:
    return f"[{','.join(map(_read_of, keys))}]".encode()


@lru_cache(8192)
def _read_of(key: str) -> str:
    return json.dumps({"KV": {"Verb": "get-tree", "Key": key}})


def _pairs_in(body: bytes, keys: Sequence[str]) -> dict[str, Pair]:
    """The pairs in the answer to `_reads`."""
    known = {key: _messages[key] for key in keys if key in _messages}
    if len(known) == len(keys) == body.count(b'"ModifyIndex"'):
        return known
    pairs = (pair_of(one["KV"]) for one in json.loads(body)["Results"] or ())
    known = {pair.key: pair for pair in pairs if pair.key in keys}
    _messages.update((key, pair) for key, pair in known.items() if "/messages/" in key)
    return known


class Question(Exception):  # noqa: N818 (nothing went wrong)
    """What has to be asked before this can go on.

    Attributes:
        asks: method, target and body.
        parse: takes the answer.
    """

    def __init__(self, target: str, body: bytes, parse: Callable[[bytes], object]) -> None:
        super().__init__(target)
        self.asks = "PUT" if body else "GET", target, body
        self.parse = parse


class Asked:
    """The store of a reader that does not wait: what was not asked yet, it raises as a question."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, ...], Any] = {}

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:  # noqa: ARG002 (as they are)
        """See `KV`."""
        some = tuple(keys)
        if some not in self.answers:
            raise Question("/v1/txn", _reads(some), lambda body: self._keep(some, _pairs_in(body, some)))
        found: dict[str, Pair] = self.answers[some]
        return found

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:  # noqa: ARG002 (as they are)
        """See `KV`."""
        if (prefix,) not in self.answers:
            raise Question(
                f"/v1/kv/{prefix}?keys=", b"", lambda body: self._keep((prefix,), tuple(json.loads(body)))
            )
        found: tuple[str, ...] = self.answers[prefix,]
        return found

    def _keep(self, question: tuple[str, ...], answer: object) -> None:
        self.answers[question] = answer

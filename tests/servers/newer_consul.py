"""A proxy before a real Consul agent, through which it behaves as newer releases do.

Only an old release can be installed here. Each point in which newer ones differ, as far as agentd can tell,
is a switch. What the proxy does not change it passes on as it is: blocking queries, errors, large bodies.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

_VERSION: Final = "1.22.1"
_LOOK: Final = 0.25  # seconds between two looks whether the client of a blocking query is still there
# What is between two neighbours only, or would keep the proxy from reading an answer.
_HOP: Final = frozenset({"accept-encoding", "connection", "content-length", "transfer-encoding"})
_TOO_MANY: Final = "Your IP is issuing too many concurrent connections, please rate limit your calls\n"
_LIMITED: Final = (
    (429, "rate limit exceeded, try again later or against a different server"),
    (503, "rate limit exceeded for operation that can only be performed by the leader, try again later"),
)


@dataclass(frozen=True)
class Points:
    """In what it behaves as a newer agent; 0, "" and False leave it as it is.

    Attributes:
        version: what the agent says of itself.
        event_body: bytes that the body of an event may have; above, it is refused before it is read.
        body: bytes that any other body may have.
        key_names: refuse names of keys with other characters than `A-Za-z0-9/_.-`.
        connections: of one address at a time; a further one is told so, and closed.
        limit_every: each so many blocking queries, one is refused by a rate limit: with 429 and 503 in turn.
            The `consul` command is spared: an old one ends its program then.
        retry_after: what it is told then, in seconds; "" for nothing.
        ports: a service may have several named ports, and port 0 then.
        streaming: say which backend answered a health query.
        stale_skew: how far the index of every second connection is ahead, for queries that may be stale.
        filtered: say that ACLs filtered an answer, if the request has a token.
    """

    version: str = _VERSION
    event_body: int = 100
    body: int = 512 * 1024
    key_names: bool = True
    connections: int = 200
    limit_every: int = 20
    retry_after: str = "1"
    ports: bool = True
    streaming: bool = True
    stale_skew: int = 0
    filtered: bool = True


@dataclass
class _Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def token(self) -> str:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-consul-token", "") or bearer

    def asking(self, **query: str | None) -> _Request:
        """The same request with these parameters; None removes one."""
        asked = {name: value for name, value in {**self.query, **query}.items() if value is not None}
        where = urlsplit(self.target).path
        return _Request(
            self.method, f"{where}?{urlencode(asked)}" if asked else where, self.headers, self.body
        )


@dataclass
class _Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """The body, or None if it is no JSON."""
        with suppress(ValueError):
            return json.loads(self.body)
        return None


class _RefusedError(Exception):
    """Answered by the proxy; the connection is closed, since a body may not have been read."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.reply = _Reply(
            status, {name.replace("_", "-"): value for name, value in headers.items()}, text.encode()
        )


@dataclass
class NewerConsul:
    """The proxy: it listens from `start` to `stop`, and can be started again.

    Attributes:
        listen: its address and port.
        agent: those of the real agent.
        management: a token that may read everything; without one it cannot be known what was filtered.
        odd: by path, items that no agent would list: each list has them before and behind its own.
        index: what its lists have for X-Consul-Index instead of their own; None: their own.
        limited: how many requests were refused by a limit.
    """

    listen: tuple[str, int]
    agent: tuple[str, int]
    points: Points = field(default_factory=Points)
    management: str = ""
    odd: dict[str, list[bytes]] = field(default_factory=dict)
    index: str | None = None
    limited: int = 0

    def __post_init__(self) -> None:
        self._ports: dict[str, Any] = {}  # by service ID
        self._open = 0
        self._accepted = 0
        self._polls = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """As `http://127.0.0.1:20001`."""
        return f"http://{self.listen[0]}:{self.listen[1]}"

    def start(self) -> NewerConsul:
        """Listen, unless it does."""
        if self._thread is None:
            ready = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(ready,), name="newer consul", daemon=True)
            self._thread.start()
            ready.wait(60)
        return self

    def stop(self) -> None:
        """Close every connection."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop = self._thread = None

    def _run(self, ready: threading.Event) -> None:
        with closing(asyncio.new_event_loop()) as loop:
            self._open = 0
            server = loop.run_until_complete(asyncio.start_server(self._serve, *self.listen, limit=1 << 20))
            self._loop = loop
            ready.set()
            loop.run_forever()
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.01))

    # ------------------------------------------------------------------ one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self._accepted += 1
        skew = self.points.stale_skew if self._accepted % 2 == 0 else 0
        try:
            if self.points.connections and self._open > self.points.connections:
                await _write(
                    writer, _Reply(429, {"Content-Type": "text/plain"}, _TOO_MANY.encode()), keep=False
                )
                return
            while await self._answer(reader, writer, skew):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            pass  # either side went away
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, skew: int) -> bool:
        """One request and its answer. Returns whether the connection goes on."""
        request = await _head(reader)
        if request is None:
            return False
        try:
            self._refuse(request)
            request.body = await _body(reader, request.headers)
            reply = await self._ask(request, reader, skew)
        except _RefusedError as refused:
            await _write(writer, refused.reply, keep=False)
            return False
        await _write(writer, reply, keep=True)
        return request.headers.get("connection", "").lower() != "close"

    def _refuse(self, request: _Request) -> None:
        """What a newer agent refuses before it reads the body."""
        points, path = self.points, request.path
        size = int(request.headers.get("content-length", "0"))
        firing = path.startswith("/v1/event/fire/")
        if firing and points.event_body and size > points.event_body:
            raise _RefusedError(413, f"Request body too large, max size: {points.event_body} bytes.")
        if points.body and size > points.body:
            raise _RefusedError(413, f"Request body too large, max size: {points.body} bytes.")
        if points.key_names and path.startswith("/v1/kv/") and not re.fullmatch(r"[A-Za-z0-9/_.\-]*", path):
            raise _RefusedError(400, "Invalid key name: only A-Z a-z 0-9 / _ . - are allowed")
        spared = request.headers.get("user-agent", "").startswith("Go-http-client")
        if points.limit_every and "index" in request.query and not spared:
            self._polls += 1
            if self._polls % points.limit_every == 0:
                self.limited += 1
                status, text = _LIMITED[self.limited % 2]
                told = {"Retry_After": points.retry_after} if points.retry_after else {}
                raise _RefusedError(status, text, **told)

    # ------------------------------------------------------------------ what the real agent says

    async def _ask(self, request: _Request, client: asyncio.StreamReader, skew: int) -> _Reply:
        query = request.query
        skewed = skew if "stale" in query and request.path.startswith("/v1/health/service/") else 0
        if skewed and int(query.get("index", "0")) > skewed:
            request = request.asking(index=str(int(query["index"]) - skewed))
        if self.points.ports and request.path == "/v1/agent/service/register":
            self._take_ports(request)
        reply = await self._exchange(request, client)
        if skewed and "x-consul-index" in reply.headers:
            reply.headers["x-consul-index"] = str(int(reply.headers["x-consul-index"]) + skewed)
        if reply.status == HTTPStatus.OK and request.method == "GET":
            await self._renew(request, reply, client)
        return reply

    async def _renew(self, request: _Request, reply: _Reply, client: asyncio.StreamReader) -> None:
        points, path = self.points, request.path
        if points.version and path == "/v1/agent/self":
            told = reply.json
            told["Config"]["Version"] = points.version
            reply.body = json.dumps(told).encode()
        if path.startswith("/v1/health/service/"):
            if points.streaming:
                backend = "streaming" if "index" in request.query else "blocking-query"
                reply.headers["x-consul-query-backend"] = backend
            if self._ports:
                self._give_ports(reply)
        if points.filtered and self.management and request.token not in ("", self.management):
            everything = request.asking(index=None, wait=None)
            everything.headers = request.headers | {"x-consul-token": self.management}
            more = (await self._exchange(everything, client)).json
            if isinstance(more, list) and len(more) > len(reply.json or []):
                reply.headers["x-consul-results-filtered-by-acls"] = "true"
        if self.index is not None and "x-consul-index" in reply.headers:
            reply.headers["x-consul-index"] = self.index
        if odd := self.odd.get(path):
            own = [inner] if (inner := reply.body.strip()[1:-1]) else []
            reply.body = b"[" + b",".join([*odd, *own, *odd]) + b"]"

    def _take_ports(self, request: _Request) -> None:
        service = json.loads(request.body)
        ports = service.pop("Ports", None)
        identity = str(service.get("ID") or service.get("Name"))
        self._ports.pop(identity, None)
        if ports:
            self._ports[identity] = ports
            request.body = json.dumps(service | {"Port": 0}).encode()

    def _give_ports(self, reply: _Reply) -> None:
        told = reply.json
        for entry in told:
            ports = self._ports.get(entry["Service"]["ID"])
            if ports:
                entry["Service"] |= {"Ports": ports, "Port": 0}
        reply.body = json.dumps(told).encode()

    async def _exchange(self, request: _Request, client: asyncio.StreamReader) -> _Reply:
        """Ask the agent over a connection of its own; give up when the client goes away."""
        reader, writer = await asyncio.open_connection(*self.agent, limit=1 << 20)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP}
            headers |= {"connection": "close", "content-length": str(len(request.body))}
            writer.write(_lines(f"{request.method} {request.target} HTTP/1.1", headers) + request.body)
            answer = asyncio.ensure_future(_reply(reader, request.method))
            while not answer.done():
                await asyncio.wait([answer], timeout=_LOOK)
                if client.at_eof() and not answer.done():
                    answer.cancel()
                    raise ConnectionError("the client is gone")
            return answer.result()
        finally:
            writer.close()


# ---------------------------------------------------------------------- HTTP/1.1, as much as is needed


async def _head(reader: asyncio.StreamReader) -> _Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    return _Request(method, target, _headers(lines))


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in lines)
    return {name.strip().lower(): value.strip() for name, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    whole = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        whole += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return bytes(whole)


async def _reply(reader: asyncio.StreamReader, method: str) -> _Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    status, headers = int(first.split()[1]), _headers(lines)
    body = b"" if method == "HEAD" else await _body(reader, headers)
    return _Reply(status, headers, body)


async def _write(writer: asyncio.StreamWriter, reply: _Reply, *, keep: bool) -> None:
    headers = {name: value for name, value in reply.headers.items() if name.lower() not in _HOP}
    headers |= {"content-length": str(len(reply.body)), **({} if keep else {"connection": "close"})}
    text = HTTPStatus(reply.status).phrase
    writer.write(_lines(f"HTTP/1.1 {reply.status} {text}", headers) + reply.body)
    await writer.drain()


def _lines(first: str, headers: Mapping[str, str]) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode(
        "latin-1"
    )

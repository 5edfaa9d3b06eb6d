"""A web server with bad manners, in threads: it hangs up in mid-body, dribbles, or says nothing at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.servers.ports import free_port


@dataclass
class Asked:
    """One request: its target, its headers in lower case."""

    target: str
    headers: dict[str, str]


Manner = Callable[[socket.socket, Asked], None]
"""What it does with one request; then it hangs up."""


@dataclass
class RoughServer:
    """Answers each request with the next manner, the last one over and over."""

    manners: list[Manner]
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Close every socket and end the thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for client in self._open:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the other side was faster
        self._thread.join(60)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # stopped
                return
            self._open.append(client)
            with client:
                asked = _read(client)
                if asked is None:
                    continue
                manner = self.manners[min(len(self.asked), len(self.manners) - 1)]
                self.asked.append(asked)
                try:
                    manner(client, asked)
                except OSError:
                    continue  # the client had enough


def _read(client: socket.socket) -> Asked | None:
    with client.makefile("rb") as stream:
        first = stream.readline().decode().split()
        if not first:
            return None
        headers = {}
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
    return Asked(first[1], headers)


def head(status: int, **headers: object) -> bytes:
    """The head of an answer; `Content_Length=5` becomes a header."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Rough", *lines, "", ""]).encode()


def sends(*parts: bytes) -> Manner:
    """Send this, then hang up."""

    def manner(client: socket.socket, _: Asked) -> None:
        for part in parts:
            client.sendall(part)

    return manner


def serves(body: bytes, *, etag: str, cut: int | None = None, ranges: bool = True) -> Manner:
    """Serve a file as a server should, but hang up after `cut` bytes of the answer's body."""

    def manner(client: socket.socket, asked: Asked) -> None:
        start, wanted = 0, asked.headers.get("range", "")
        if ranges and wanted.startswith("bytes=") and asked.headers.get("if-range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        rest = body[start:]
        given = {"ETag": etag, "Content_Length": len(rest)}
        if start:
            given["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        client.sendall(head(206 if start else 200, **given) + rest[:cut])

    return manner


def dribbles(start: bytes, pause: float, seconds: float) -> Manner:
    """Send a byte after each pause, so that no single read ever times out."""

    def manner(client: socket.socket, _: Asked) -> None:
        client.sendall(start)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.sendall(b"x")
            time.sleep(pause)

    return manner


def says_nothing(seconds: float) -> Manner:
    """Read the request, and be silent until the client gives up."""

    def manner(client: socket.socket, _: Asked) -> None:
        client.settimeout(seconds)
        client.recv(1)

    return manner

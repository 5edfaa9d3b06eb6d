"""An agent that reads from a script: real bytes over a unix socket, so the whole client is under test."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

CUT: Final = b""
"""In a script: hang up without a word."""
HANG: Final = b"hang"
"""In a script: read the request and never answer."""


class Half(bytes):
    """In a script: send this, then hang up."""


def reply(
    body: Any = b"",  # noqa: ANN401 - bytes as they are, anything else as JSON
    status: int = 200,
    **headers: str,
) -> bytes:
    """One answer; `X_Consul_Index="7"` becomes a header."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class Received:
    """One request as it came in; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedAgent:
    """Answers one request after the other with what the script says, over as many connections as it takes."""

    path: Path
    script: list[bytes] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    asked: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        """For `ConsulOptions`."""
        return f"unix://{self.path}"

    def stop(self) -> None:
        """Close every socket and end the thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._hang_up()
        self._thread.join(60)
        self._listener.close()

    def _hang_up(self) -> None:
        client = self._client
        if client is not None:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side was faster

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # stopped
                return
            self.connections += 1
            self._client = client
            with client, client.makefile("rb") as stream:
                while (request := _read(stream)) is not None and self._answer(client, request):
                    pass

    def _answer(self, client: socket.socket, request: Received) -> bool:
        self.requests.append(request)
        answer = self.script.pop(0) if self.script else CUT
        self.asked.set()
        if answer == HANG:
            return True  # waits for a request that never comes
        if answer:
            client.sendall(answer)
        return bool(answer) and not isinstance(answer, Half)


def _read(stream: Any) -> Received | None:  # noqa: ANN401 - what makefile returns
    try:
        first = stream.readline().decode().split()
        if not first:
            return None
        headers = {}
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0")))
    except OSError:
        return None
    return Received(first[0], first[1], headers, body)

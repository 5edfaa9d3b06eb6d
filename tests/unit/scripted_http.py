"""An HTTP server on loopback that answers with scripted bytes, whatever HTTP has to say of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agentd.http import Address, TCPAddress, UnixAddress

_PATIENCE: Final = 60.0
_DRIP: Final = 0.02


class ScriptedServer:
    """Answers each request with the next of `answers`; the last one again and again.

    Attributes:
        address: where it listens.
        answers: bytes to send.
        keep: whether the connection stays open for another request, whatever the answer says.
        drip: whether the bytes come one at a time, for ever.
        hold: while it is clear, the connection stays open after the answer.
        requests: what was asked, each as far as its head.
        connections: how many there were.
    """

    def __init__(self, listener: socket.socket, address: Address) -> None:
        self.address = address
        self.answers: list[bytes] = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
        self.requests: list[bytes] = []
        self.connections = 0
        self.keep = self.drip = False
        self.hold = threading.Event()
        self.hold.set()
        self._closed = threading.Event()
        self._listener = listener
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def request_lines(self) -> list[str]:
        """The first line of each request."""
        return [request.split(b"\r\n")[0].decode() for request in self.requests]

    def close(self) -> None:
        """End it."""
        self._closed.set()
        self.hold.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, suppress(OSError):
                while self._serve(connection):
                    pass
                self.hold.wait(_PATIENCE)

    def _serve(self, connection: socket.socket) -> bool:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (received := connection.recv(65536)):
                return False
            request += received
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not self.drip:
            connection.sendall(answer)
            return self.keep or b"keep-alive" in answer
        while not self._closed.wait(_DRIP):
            sent, answer = answer[:1], answer[1:]
            connection.sendall(sent or b"x")
        return False


@contextmanager
def scripted_server(path: Path | None = None) -> Iterator[ScriptedServer]:
    """A server on a free TCP port, or on the unix socket `path`."""
    if path is None:
        listener = socket.create_server(("127.0.0.1", 0))
        address: Address = TCPAddress("127.0.0.1", listener.getsockname()[1])
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        address = UnixAddress(str(path))
    server = ScriptedServer(listener, address)
    try:
        yield server
    finally:
        server.close()

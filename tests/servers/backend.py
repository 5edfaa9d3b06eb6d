"""Servers behind a load balancer: each says who it is, can be stopped, and counts what it is asked."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers.ports import free_port


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a client whose connection is not taken up tries again after a second


class Backend:
    """One HTTP server on loopback that answers its port.

    Attributes:
        asked: how many requests came.
        connections: over how many connections.
        delay: seconds before each answer.
        status: of each answer.
    """

    def __init__(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.host = host
        self.port = port or free_port(host)
        self.asked = 0
        self.connections = 0
        self.delay = 0.0
        self.status = 200
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """As nginx has it."""
        return f"{self.host}:{self.port}"

    def start(self) -> Backend:
        """Listen and answer, in a thread."""
        backend = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                backend.connections += 1
                super().setup()

            def do_GET(self) -> None:
                backend.asked += 1
                if backend.delay:
                    time.sleep(backend.delay)
                body = str(backend.port).encode()
                self.send_response(backend.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's own name)
                """Say nothing."""

        self._server = _Server((self.host, self.port), Answer)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

"""HTTP servers on loopback that answer with their own address and port."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say who we are."""
        host, port = self.request.getsockname()
        body = f"{host}:{port}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # a client whose connection is not taken up tries again after a second


def start_backend(stack: ExitStack, host: str = "127.0.0.1", port: int = 0) -> str:
    """Start one and return HOST:PORT; `stack` stops it."""
    server = _Server((host, port), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stack.callback(thread.join, 60)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"{host}:{server.server_address[1]}"

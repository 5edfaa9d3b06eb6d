"""A real HAProxy with one backend, `api`, and its run-time socket."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import urllib3

from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

_CONFIGURATION = """\
global
    stats socket {directory}/admin.sock mode 600 level admin
    stats socket {directory}/operator.sock mode 666 level operator
defaults
    mode http
    timeout connect 10s
    timeout client 30s
    timeout server 30s
frontend in
    bind 127.0.0.1:{port}
    default_backend api
backend api
    balance roundrobin
    option redispatch
    {servers}
"""


class HAProxy:
    """One HAProxy; keep the directory's path short, it holds a unix socket.

    Args:
        directory: empty and its own.
        servers: lines of the backend, such as "server-template slot 3 127.0.0.1:1 disabled".
    """

    def __init__(self, directory: Path, *servers: str) -> None:
        self.socket = directory / "admin.sock"
        self.port = free_port()
        configuration = directory / "haproxy.cfg"
        text = _CONFIGURATION.format(directory=directory, port=self.port, servers="\n    ".join(servers))
        configuration.write_text(text)
        binary = shutil.which("haproxy") or "haproxy"
        self.process = ServerProcess([binary, "-db", "-f", str(configuration)], directory / "haproxy.log")

    @property
    def operator(self) -> str:
        """A socket that anybody may connect to, and that may not set everything."""
        return f"unix:{self.socket.with_name('operator.sock')}"

    @property
    def interface(self) -> str:
        """As the handler's option wants it."""
        return f"unix:{self.socket}"

    def start(self) -> HAProxy:
        """Start it and wait until its socket answers."""
        self.process.start(lambda: self.tell("show info"))
        return self

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    def tell(self, command: str) -> str:
        """Send one command to the run-time socket, as an operator does with socat."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def via(self, count: int) -> list[str]:
        """Who answered that many requests; a status where it was not 200."""
        with urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=30, retries=False) as pool:
            close = {"Connection": "close"}
            answers = [pool.request("GET", "/", headers=close) for _ in range(count)]
        return [answer.data.decode() if answer.status == 200 else str(answer.status) for answer in answers]

"""A real HAProxy: with one backend, `api`, or with TLS and session tickets; each with its run-time socket."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import socket
from pathlib import Path

import urllib3

from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

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
        return _tell(self.socket, command)

    def via(self, count: int) -> list[str]:
        """Who answered that many requests; a status where it was not 200."""
        with urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=30, retries=False) as pool:
            close = {"Connection": "close"}
            answers = [pool.request("GET", "/", headers=close) for _ in range(count)]
        return [answer.data.decode() if answer.status == 200 else str(answer.status) for answer in answers]


_TLS = """\
global
    stats socket {directory}/admin.sock mode 600 level admin
    {sockets}
defaults
    mode http
    timeout connect 10s
    timeout client 30s
    timeout server 30s
frontend tls
    bind 127.0.0.1:{port} ssl crt {pair} {keys}
    bind 127.0.0.1:{second} ssl crt {pair} {keys}
    bind 127.0.0.1:{own} ssl crt {pair}
    http-request return status 200
"""


class TicketHAProxy:
    """One HAProxy with three TLS listeners: two with the ring's keys, one with keys of its own.

    Args:
        directory: empty and its own; keep its path short, it holds a unix socket.
        certificate: what it shows.
        keys: the file that `tls-ticket-keys` names.
        master: whether it has a master process, so that it can be reloaded.
    """

    def __init__(
        self, directory: Path, certificate: Certificate, keys: Path, *, master: bool = False
    ) -> None:
        self.socket = directory / "admin.sock"
        self.port, self.second, self.own = free_port(), free_port(), free_port()
        self.keys = keys
        self._configuration = directory / "haproxy.cfg"
        self._pair = directory / "pair.pem"
        self._pair.write_bytes(certificate.certificate.read_bytes() + certificate.key.read_bytes())
        self.configure()
        argv = [shutil.which("haproxy") or "haproxy", *(["-W"] if master else []), "-db", "-f"]
        self.process = ServerProcess([*argv, str(self._configuration)], directory / "haproxy.log")

    def configure(self, *, keys: str | None = None, sockets: str = "") -> None:
        """Write its configuration anew: another `tls-ticket-keys PATH`, or none, and more sockets."""
        text = _TLS.format(
            directory=self.socket.parent,
            port=self.port,
            second=self.second,
            own=self.own,
            pair=self._pair,
            keys=f"tls-ticket-keys {self.keys}" if keys is None else keys,
            sockets=sockets,
        )
        self._configuration.write_text(text)

    @property
    def interface(self) -> str:
        """As the handler's option wants it."""
        return f"unix:{self.socket}"

    def start(self) -> TicketHAProxy:
        """Start it and wait until its socket answers."""
        self.process.start(lambda: self.pid)
        return self

    def restart(self) -> None:
        """Stop it and start it again."""
        self.process.stop()
        self.start()

    def reload(self) -> None:
        """Let its master start another worker, and wait until that answers."""
        before = self.pid
        wait_until(self._heeds, "HAProxy's master to heed signals")
        self.process.send(signal.SIGUSR2)
        wait_until(lambda: self.pid != before, "HAProxy's new worker")

    def _heeds(self) -> bool:
        """Whether its master has got as far as to take a signal: its worker answers before."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught, blocked = (
            int(re.findall(f"{name}:\t([0-9a-f]+)", status)[0], 16) for name in ("SigCgt", "SigBlk")
        )
        return bool((caught & ~blocked) >> (signal.SIGUSR2 - 1) & 1)

    @property
    def pid(self) -> int:
        """Of the process that answers."""
        return int(self.tell("show info").partition("Pid: ")[2].partition("\n")[0])

    def slots(self) -> list[bytes]:
        """The keys that it holds: the second encrypts."""
        lines = self.tell("show tls-keys #0").splitlines()
        return [base64.b64decode(line.split(" ")[1]) for line in lines if line.startswith("0.")]

    def push(self, key: bytes) -> None:
        """Set a key as an operator does."""
        self.tell(f"set ssl tls-key #0 {base64.b64encode(key).decode()}")

    def tell(self, command: str) -> str:
        """Send one command to the run-time socket."""
        return _tell(self.socket, command)


def _tell(place: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(place))
        connection.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

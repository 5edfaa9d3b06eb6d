"""TLS as a client sees it: whether a session begun on one node is resumed on another.

The client is Python's own `ssl`; `SSLSocket.session` has the newest ticket, a renewed TLS 1.2 one included.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

TLS12 = ssl.TLSVersion.TLSv1_2
TLS13 = ssl.TLSVersion.TLSv1_3

_NAMES = ",".join(["DNS:localhost", "IP:::1", *(f"IP:127.0.0.{last}" for last in range(1, 10))])


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate, valid for localhost, ::1 and 127.0.0.1 to .9, and its key."""

    certificate: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """Make a certificate in `directory` with openssl."""
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        str(made.key),
    ]
    name = ["-subj", "/CN=agentd test", "-addext", f"subjectAltName={_NAMES}"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *new_key, *name, "-out", str(made.certificate)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return made


@dataclass(frozen=True)
class Handshake:
    """What one connection showed.

    Attributes:
        version: "TLSv1.2" or "TLSv1.3".
        resumed: whether the server accepted the session that was offered.
        lifetime: the ticket's lifetime hint in seconds, 0 without a ticket.
        response: the HTTP answer, headers included.
    """

    version: str
    resumed: bool
    lifetime: int
    response: bytes


class TLSClient:
    """A client of one TLS version that offers its latest session at every connection.

    Args:
        certificate: the one the servers show.
        version: `TLS12` or `TLS13`.
    """

    def __init__(self, certificate: Certificate, version: ssl.TLSVersion) -> None:
        self._context = ssl.create_default_context(cafile=str(certificate.certificate))
        self._context.minimum_version = self._context.maximum_version = version
        self.session: ssl.SSLSession | None = None

    def connect(self, address: str, port: int, *, path: str = "/") -> Handshake:
        """Connect, offer the session if there is one, send one GET, and keep the newest session.

        Raises:
            OSError: no connection, or the handshake failed (`ssl.SSLError` is one).
        """
        with (
            socket.create_connection((address, port), timeout=30) as plain,
            self._context.wrap_socket(plain, server_hostname=address, session=self.session) as connection,
        ):
            request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            # A TLS 1.3 ticket comes after the handshake: only who reads the answer has it.
            response = b"".join(iter(lambda: connection.recv(65536), b""))
            self.session = connection.session or self.session
            return Handshake(
                version=connection.version() or "",
                resumed=bool(connection.session_reused),
                lifetime=self.session.ticket_lifetime_hint if self.session else 0,
                response=response,
            )

    def forget(self) -> None:
        """Drop the session, so that the next connection is a full handshake."""
        self.session = None

"""How one connection to the agent is made (TCP, TLS, unix socket), and what it means when it breaks."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.watch.options import ConsulOptions, Endpoint

BREAKAGES: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
"""All that the connection can raise; `explain` turns it into words."""


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket: only how to connect differs."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(self.timeout)
            made.connect(self._path)
        except OSError:
            made.close()
            raise
        return made


def connection(options: ConsulOptions) -> HTTPConnection:
    """Prepare a connection; it is made with the first request.

    Raises:
        ConsulRefused: a TLS file cannot be used.
    """
    endpoint = options.endpoint
    if endpoint.socket:
        return _UnixConnection(endpoint.socket)
    if endpoint.scheme == "https":
        return HTTPSConnection(endpoint.host, endpoint.port, ssl_context=_tls(options))
    return HTTPConnection(endpoint.host, endpoint.port)


def _tls(options: ConsulOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(
            str(file) for file in (options.ca_file, options.cert_file, options.key_file) if file
        )
        raise ConsulRefused(f"TLS files {files} cannot be used ({error.strerror}): correct them") from error
    return context


def explain(error: BaseException, endpoint: Endpoint) -> ConsulUnavailable:
    """Say what broke and what the operator can do; the caller raises it from `error`."""
    cause = error.__cause__ if isinstance(error, urllib3.exceptions.HTTPError) and error.__cause__ else error
    match cause:
        case ssl.SSLError():
            problem = f"TLS with {endpoint} failed ({cause.reason}): check ca_file, cert_file and key_file"
        case ConnectionRefusedError() | FileNotFoundError():
            problem = f"no Consul agent listens on {endpoint}: start it, or correct consul.address"
        case PermissionError():
            problem = f"no permission to connect to {endpoint}: give agentd's user access to it"
        case socket.gaierror():
            problem = f"the host name in {endpoint} cannot be resolved: correct consul.address"
        case TimeoutError():
            problem = f"{endpoint} did not answer in time: see the Consul agent's log"
        case _:
            problem = (
                f"the connection to {endpoint} broke ({type(cause).__name__}): see the Consul agent's log"
            )
    return ConsulUnavailable(problem)

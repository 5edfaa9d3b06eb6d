"""One HTTP GET whose whole duration and size are bounded, whatever the other side does.

A time-out of each read, as HTTP libraries have it, does not bound an answer that drips byte by byte; the
deadline here is of the whole exchange. Owns the bytes; what they mean is the caller's.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from dataclasses import dataclass

from agentd.errors import BalancerError

_PIECE = 65536


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that came whole."""

    status: int
    body: bytes


def get(host: str, port: int, target: str, *, seconds: float, most: int) -> Reply:
    """Ask once, over a connection of its own.

    Args:
        host: address or name.
        port: TCP.
        target: path and query, sent as they are: the dynamic-upstream interface decodes nothing.
        seconds: until the answer must have come whole.
        most: bytes of the answer, head included.

    Raises:
        BalancerError: no answer, not whole, not in time, too large, or not HTTP.
    """
    deadline = time.monotonic() + seconds
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(_request(host, port, target))
            data = _read(connection, deadline, most)
    except TimeoutError as error:
        raise BalancerError(f"no whole answer within {seconds:g} s") from error
    except OSError as error:
        raise BalancerError(f"no answer: {error.strerror or type(error).__name__}") from error
    return _parse(data)


def _request(host: str, port: int, target: str) -> bytes:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return (
        f"GET {target} HTTP/1.1\r\nHost: {where}\r\nUser-Agent: agentd\r\nConnection: close\r\n\r\n".encode()
    )


def _read(connection: socket.socket, deadline: float, most: int) -> bytes:
    data = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(_PIECE)
        if not piece:
            return bytes(data)
        data += piece
        if len(data) > most:
            raise BalancerError(f"the answer is larger than {most} bytes")


class _Received:
    """What `HTTPResponse` wants of a socket: something to read from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        """All that was received."""
        return io.BytesIO(self._data)


def _parse(data: bytes) -> Reply:
    if not data:
        raise BalancerError("the connection was closed without an answer")
    response = http.client.HTTPResponse(_Received(data))  # type: ignore[arg-type] # it only calls makefile
    try:
        response.begin()
        return Reply(response.status, response.read())
    except http.client.IncompleteRead as error:
        raise BalancerError("the answer was cut short") from error
    except (http.client.HTTPException, ValueError) as error:
        raise BalancerError(f"the answer is not HTTP ({type(error).__name__})") from error

"""HAProxy's run-time socket: one connection a call, bounded in time and size."""

from __future__ import annotations

import socket
import time
from typing import Final

from agentd.handler import TemporaryError

_MOST_BYTES: Final = 1_048_576


class RuntimeSocket:
    """The socket.

    Args:
        interface: "unix:/PATH" or "tcp:HOST:PORT".
        timeout: seconds for a whole call.
    """

    def __init__(self, interface: str, timeout: float) -> None:
        self._interface = interface
        self._timeout = timeout

    def __str__(self) -> str:
        return self._interface

    def ask(self, commands: str) -> str:
        """Send commands, separated by semicolons, and return all that is answered.

        Raises:
            TemporaryError: no answer in time, or one that does not end.
        """
        deadline = time.monotonic() + self._timeout
        try:
            with self._connected() as connection:
                connection.sendall(f"{commands}\n".encode("ascii"))
                return self._read(connection, deadline).decode("ascii", "replace")
        except OSError as error:
            reason = f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else error
            raise TemporaryError(f"{self._interface}: {reason}") from error

    def _connected(self) -> socket.socket:
        scheme, _, rest = self._interface.partition(":")
        if scheme == "unix":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(self._timeout)
                connection.connect(rest)
            except OSError:
                connection.close()
                raise
            return connection
        host, _, port = rest.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=self._timeout)

    def _read(self, connection: socket.socket, deadline: float) -> bytes:
        answer = bytearray()
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not (more := connection.recv(65536)):
                return bytes(answer)
            answer += more
            if len(answer) > _MOST_BYTES:
                raise TemporaryError(f"{self._interface}: the answer is longer than {_MOST_BYTES} bytes")
        raise TimeoutError

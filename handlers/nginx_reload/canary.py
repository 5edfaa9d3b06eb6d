"""Asks nginx which generation it serves, over the unix socket of the canary in the tree's `agentd.conf`.

Owns that one question and the removal of a socket file that nobody listens on any more. Must not keep a
connection open: a worker that drains would hold on to it.
"""

from __future__ import annotations

import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_REQUEST: Final = b"GET /generation HTTP/1.0\r\n\r\n"
_ANSWER_BYTES: Final = 4096
_BIND_TO_LISTEN: Final = 0.02


def ask(path: Path, timeout: float = 1.0) -> str:
    """The answer of one worker: the body, such as "42", or the status line if it is not a 200.

    Args:
        path: the unix socket.
        timeout: seconds for each step of the exchange.

    Raises:
        OSError: nobody listens, or the answer did not come in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(_REQUEST)
        answer = b""
        while len(answer) < _ANSWER_BYTES and (more := connection.recv(_ANSWER_BYTES)):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0]
    said = body if b" 200 " in status + b" " else status
    return said[:64].decode("ascii", "replace").strip()


def remove_stale(path: Path) -> bool:
    """Remove the socket file if its listener is gone; return whether it did.

    nginx removes the socket when it stops, but not when it is killed; then `nginx -t` still passes and every
    start fails with "Address already in use" (seen with 1.22.1).
    """
    first = _deserted(path)
    if first is None:
        return False
    time.sleep(_BIND_TO_LISTEN)  # between its bind() and its listen() a starting nginx refuses as well
    if _deserted(path) != first:
        return False
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _deserted(path: Path) -> int | None:
    """The inode of a socket that refuses connections, or None for anything else."""
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            return found.st_ino
        except OSError:
            return None
    return None

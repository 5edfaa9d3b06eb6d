"""Free ports on loopback, for servers that must find the same port free again after a restart."""

from __future__ import annotations

import os
import random
import socket

# Below Linux's ephemeral range (32768 on), so that no outgoing connection takes a port between two starts.
# Each worker of pytest-xdist has a part of its own, which no other one takes while a server is down.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_FIRST = 20000 + 1500 * _WORKER
_LAST = _FIRST + 1499
_TRIES = 200
_handed_out: set[tuple[str, int]] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that is free on `address` for TCP and UDP and was not handed out before.

    Raises:
        RuntimeError: none was found.
    """
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        if (address, port) not in _handed_out and _is_free(address, port):
            _handed_out.add((address, port))
            return port
    raise RuntimeError(f"no free port on {address} after {_TRIES} tries")


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                probe.bind((address, port))
    except OSError:
        return False
    return True

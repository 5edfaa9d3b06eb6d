"""Stands in for servers and programs: a client of `agentd.wire` talks to bytes, whatever it sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

from agentd.deadline import Deadline
from agentd.errors import PermanentError
from agentd.sources.decompressor import RefusedError, decompress
from agentd.wire import Address, Clock, ConnectError, Wire

LARGEST: Final = 100_000
"""Bytes that fit into the buffer of a socket."""
_CLIENTS: Final = ("agentd.http.connect", "agentd.haproxy.connect")


@contextmanager
def served(*answers: bytes) -> Iterator[None]:
    """Within, each connection gets the next answer, whole and at once, then its end; after the last, none."""
    waiting = list(answers)
    with ExitStack() as stack:

        def connect(_: Address, clock: Clock) -> Wire:
            if not waiting:
                raise ConnectError("nothing is listening there")
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            theirs.sendall(waiting.pop(0)[:LARGEST])
            theirs.shutdown(socket.SHUT_WR)
            return Wire(ours, clock)

        for client in _CLIENTS:
            stack.enter_context(patch(client, connect))
        yield


@contextmanager
def unpacked_here() -> Iterator[None]:
    """Within, what a payload needs a program for is done in this process, a hundred times as fast."""

    def here(source: str, packed: Path, plain: Path, largest: int, _: Deadline) -> None:
        try:
            decompress(packed, plain, largest)
        except RefusedError as error:
            raise PermanentError(f"{source}: {error}") from error

    with patch("agentd.sources.unpack._decompress", here):
        yield


def answer(body: bytes, status: int = 200, **headers: str) -> bytes:
    """A complete answer with this body; `X_Consul_Index="7"` becomes a header."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *lines, "", ""])
    return head.encode("latin-1") + body

"""HAProxy's run-time socket: who can connect to it, and one connection per call, bounded by `agentd.wire`.

Source: https://docs.haproxy.org/2.6/management.html#9.3
"""

from __future__ import annotations

import re
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from agentd.errors import TemporaryError
from agentd.wire import (
    Address,
    Clock,
    ExchangeError,
    TCPAddress,
    Timeouts,
    TooLargeError,
    UnixAddress,
    connect,
    translated,
)

LARGEST: Final = 1_048_576
"""Bytes that an answer may have, unless a caller expects more."""
_CHUNK: Final = 65536


_TCP: Final = re.compile(r"tcp:(\[[0-9A-Fa-f:.]+\]|[^\s\[\]]+):([0-9]{1,5})")
_LAST_PORT: Final = 65535


def parse(interface: str) -> Address:
    """Where to connect for "unix:/PATH" or "tcp:HOST:PORT". Raises ValueError: it is neither."""
    scheme, _, path = interface.partition(":")
    if scheme == "unix" and path.startswith("/"):
        return UnixAddress(path)
    found = _TCP.fullmatch(interface)
    if found is None or not 0 < int(found[2]) <= _LAST_PORT:
        raise ValueError(f"unix:/PATH or tcp:HOST:PORT is needed, not {interface[:80]!r}")
    return TCPAddress(found[1].strip("[]"), int(found[2]))


def doubt(socket: Path) -> str:
    """Why everybody on this machine can connect to the socket, and what to do; "" if they cannot."""
    try:
        if socket.exists() and socket.stat().st_mode & stat.S_IWOTH and is_passable(socket.parent):
            return (
                f"every user of this machine can connect to {socket}, and change what HAProxy does:"
                " give it `mode 660` in HAProxy's `stats socket`"
            )
    except OSError as error:
        return f"agentd cannot tell who can connect to {socket}: {error.strerror}"
    return ""


def impostor(socket: Path) -> str:
    """Why everybody on this machine could listen there in HAProxy's place; "" if they could not."""
    try:
        for place in {socket, socket.resolve()}:
            for directory in place.parents:
                mode = directory.stat().st_mode
                # In one like /tmp, nobody removes what belongs to others, but anybody may be the first.
                if mode & stat.S_IWOTH and (directory == place.parent or not mode & stat.S_ISVTX):
                    return (
                        f"every user of this machine can put a socket of their own at {socket}, since they"
                        f" can write to {directory}: move the socket to a directory of HAProxy alone"
                    )
    except OSError as error:
        return f"agentd cannot tell who could listen at {socket}: {error.strerror}"
    return ""


def is_passable(directory: Path) -> bool:
    """Whether anybody can reach what is in it, by the modes of all directories on the way. Raises OSError."""
    real = directory.resolve()
    return all(one.stat().st_mode & stat.S_IXOTH for one in (real, *real.parents))


def ask(interface: str, commands: str, timeout: float, *, largest: int = LARGEST) -> str:
    """Send commands and return the whole answer.

    Args:
        interface: see `parse`.
        commands: separated by semicolons.
        timeout: seconds for a whole call.
        largest: bytes that the answer may have.

    Raises:
        TemporaryError: no answer in time, or one that is too large or cut off.
        ValueError: the interface is not of this form.
    """
    address, answer = parse(interface), bytearray()
    try:
        with translated(), closing(connect(address, Clock(Timeouts(timeout)))) as wire:
            wire.send(f"{commands}\n".encode("ascii"))
            while piece := wire.read(_CHUNK):
                answer += piece
                if len(answer) > largest:
                    raise TooLargeError(f"the answer has more than {largest} bytes")
    except ExchangeError as error:
        raise TemporaryError(str(error)) from error
    if not answer.endswith(b"\n"):  # even one without a word ends so
        raise TemporaryError("the answer was cut off")
    return answer.decode("ascii", "replace")

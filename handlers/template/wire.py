"""Frames between the handler and the program that renders: a length, then JSON."""

from __future__ import annotations

import socket
import struct
from typing import Final

_LENGTH: Final = struct.Struct(">Q")
_CHUNK: Final = 1 << 20


def send(to: socket.socket, frame: bytes) -> None:
    """Send one frame. Raises OSError if the other side is gone, or time is up."""
    to.sendall(_LENGTH.pack(len(frame)) + frame)


def receive(source: socket.socket, most: int) -> bytes | None:
    """The next frame; None if the other side ended, or sends more than `most` bytes. Raises OSError."""
    head = _exactly(source, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    return _exactly(source, size) if size <= most else None


def _exactly(source: socket.socket, size: int) -> bytes | None:
    parts, left = [], size
    while left:
        part = source.recv(min(left, _CHUNK))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)

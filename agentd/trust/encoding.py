"""The two encodings that signatures rest on: canonical base64url, and PAE.

PAE is PASETO's Pre-Authentication Encoding: it turns a list of byte strings into one, unambiguously.

Source: https://github.com/paseto-standard/paseto-spec/blob/master/docs/01-Protocol-Versions/Common.md
"""

from __future__ import annotations

import base64
import struct


def encode64(data: bytes) -> str:
    """The bytes in base64url, without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode64(text: str) -> bytes:
    """The bytes of a text in base64url.

    Raises:
        ValueError: it is not canonical. Other decoders ignore unknown characters and unused bits at the end,
            so that they accept many encodings of one value.
    """
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode64(data) != text:
        raise ValueError("it is not canonical base64url")
    return data


def pae(*pieces: bytes) -> bytes:
    """The pieces as one byte string: their number, then each with its length, in 8 bytes little-endian."""
    parts = [struct.pack("<Q", len(pieces))]
    for piece in pieces:
        parts += [struct.pack("<Q", len(piece)), piece]
    return b"".join(parts)

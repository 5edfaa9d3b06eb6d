"""The two encodings under every signature: base64url in its one spelling, and PAE.

PAE is PASETO's Pre-Authentication Encoding: a list of byte strings as one, so that no two lists look alike.

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
        ValueError: `encode64` would not write it like that. Other decoders pass over characters that they do
            not know, and bits at the end that mean nothing, so that one value has many spellings.
    """
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode64(data) != text:
        raise ValueError("it is not base64url in its one spelling")
    return data


def pae(*pieces: bytes) -> bytes:
    """The pieces as one byte string: their number, then each with its length, in 8 bytes little-endian."""
    parts = [struct.pack("<Q", len(pieces))]
    for piece in pieces:
        parts += [struct.pack("<Q", len(piece)), piece]
    return b"".join(parts)

"""Reads a session ticket key from the payload that an operator fired.

Owns the grammar of the payload and what is refused. A refusal names lengths and the first 8 hex digits of a
SHA-256; nothing here lets a byte of the payload into a message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from agentd.handler import PermanentError

NAME_SIZE: Final = 16
"""A key begins with the name by which a ticket finds it; names travel in the clear, in every ticket."""

_SIZES: Final = (48, 80)
_FEWEST_DISTINCT: Final = 6  # of 16 random bytes fewer differ once in 10**17 keys
_TEXT: Final = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))


def read_key(payload: bytes) -> bytes:
    """Return the key of 48 bytes (name, AES-128, HMAC) or 80 bytes (name, HMAC, AES-256).

    The payload is base64 (standard alphabet, padded, white space anywhere) or the bytes themselves. Base64 is
    tried first. A payload of printable characters that is not base64 of a key is refused even if it has 48
    or 80 of them: it is a base64 text of the wrong length, or hex, never a random key.

    Raises:
        PermanentError: it is none of these, or is not random.

    Source: https://nginx.org/en/docs/http/ngx_http_ssl_module.html#ssl_session_ticket_key
    """
    if not payload.strip():
        raise PermanentError('empty payload: fire a key, such as "$(openssl rand 48 | base64)"')
    key = _decode(b"".join(payload.split()))
    if key is None:
        if _TEXT.issuperset(payload):
            raise PermanentError(f"not base64: {_described(payload)}; a key is base64 of 48 or 80 bytes")
        key = payload
    if len(key) not in _SIZES:
        raise PermanentError(f"a key of {len(key)} bytes: 48 or 80 are needed ({_described(payload)})")
    if not _looks_random(key):
        raise PermanentError(
            f"not a random key ({_described(payload)}): make one with openssl rand {len(key)} | base64"
        )
    return key


def short_digest(data: bytes) -> str:
    """All that logs and messages may say of a secret besides its length: 8 hex digits."""
    return hashlib.sha256(data).hexdigest()[:8]


def _decode(text: bytes) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    # The decoder forgives set bits under the padding, and more; the encoder has one form for each value.
    return data if base64.b64encode(data) == text else None


def _looks_random(key: bytes) -> bool:
    secret = key[NAME_SIZE:]
    halves = secret[: len(secret) // 2], secret[len(secret) // 2 :]
    return not _TEXT.issuperset(key) and all(len(set(half)) >= _FEWEST_DISTINCT for half in halves)


def _described(payload: bytes) -> str:
    return f"{len(payload)} bytes, sha256 {short_digest(payload)}"

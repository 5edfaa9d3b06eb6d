"""Reads a session ticket key from the payload that an operator fired.

Owns the grammar of the payload and what is refused. A refusal names the length and the first 8 hex digits of
the SHA-256; no byte of the payload ever gets into a message.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from agentd.handler import PermanentError, digest

NAME_SIZE: Final = 16
"""A key begins with a name, by which tickets refer to it; every ticket contains it in the clear."""

SIZES: Final = (48, 80)
"""Bytes of a key."""
KEY_SIZE: Final = 80
"""Bytes of a new key: a name, an HMAC key and an AES-256 key."""
_FEWEST_DISTINCT: Final = 6  # 16 random bytes have fewer in one of 10**17 keys
_ADVICE: Final = (
    "fire 48 or 80 random bytes, as they are or in base64, as `openssl rand 80 | agentd fire NAME -` does"
)
_TEXT: Final = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))


def read_key(payload: bytes) -> bytes:
    """Return the key of 48 bytes (name, AES-128, HMAC) or 80 bytes (name, HMAC, AES-256).

    The payload is base64 (standard alphabet, padded, white space anywhere) or the bytes themselves; base64 is
    tried first. Printable text that is not base64 of a key is refused even if it is 48 or 80 characters long:
    it is base64 of the wrong length, or hex, but never a random key.

    Raises:
        PermanentError: it is none of these, or not random.

    Source: https://nginx.org/en/docs/http/ngx_http_ssl_module.html#ssl_session_ticket_key
    """
    if not payload.strip():
        raise PermanentError(f"the payload is empty: {_ADVICE}")
    key = _decode(b"".join(payload.split()))
    if key is None:
        if _TEXT.issuperset(payload):
            raise PermanentError(f"not base64: {digest(payload)}: {_ADVICE}")
        key = payload
    if wrong := fault(key):
        raise PermanentError(f"{wrong} ({digest(payload)}): {_ADVICE}")
    return key


def fault(key: bytes) -> str:
    """What is wrong with the bytes of a key; "" if nothing is."""
    if len(key) not in SIZES:
        return f"the key is {len(key)} bytes long instead of 48 or 80"
    return "" if _looks_random(key) else "the key is not random"


def is_document(payload: bytes) -> bool:
    """Whether it is the fleet's ring (see `document`) rather than a key.

    No base64 begins like this, and no random bytes are text.
    """
    return payload.startswith(b"{") and _TEXT.issuperset(payload)


def _decode(text: bytes) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    # The decoder tolerates stray bits below the padding, and more; the encoder has one form for each value.
    return data if base64.b64encode(data) == text else None


def _looks_random(key: bytes) -> bool:
    secret = key[NAME_SIZE:]
    halves = secret[: len(secret) // 2], secret[len(secret) // 2 :]
    return not _TEXT.issuperset(key) and all(len(set(half)) >= _FEWEST_DISTINCT for half in halves)

"""Sealing: encrypts the payload of one message with a key of the fleet.

XChaCha20-Poly1305 with a random nonce. The ciphertext is bound to the place of its message, its publisher and
the key: under another number, or signed by another publisher, it cannot be decrypted.
"""

from __future__ import annotations

from typing import Final

from agentd.errors import Untrusted
from agentd.trust.encoding import pae
from agentd.trust.keys import FleetKey

OVERHEAD: Final = 24 + 16
"""Bytes that sealing adds: nonce and authentication tag."""

_HEADER: Final = b"agentd1.seal."


def seal(content: bytes, key: FleetKey, place: bytes, publisher: str) -> bytes:
    """Encrypt.

    Args:
        content: the payload.
        key: of the fleet.
        place: the implicit assertion of the message.
        publisher: the ID of the key that signs the message.
    """
    from agentd.trust import sodium  # noqa: PLC0415 (whoever only reads does without)

    return sodium.seal(content, _context(key, place, publisher), key.data)


def unseal(sealed: bytes, key: FleetKey, place: bytes, publisher: str) -> bytes:
    """Decrypt; the arguments are those of `seal`.

    Raises:
        Untrusted: it was not sealed with this key, for this place, by this publisher.
    """
    from agentd.trust import sodium  # noqa: PLC0415 (as above)

    content = sodium.unseal(sealed, _context(key, place, publisher), key.data)
    if content is None:
        raise Untrusted(
            "its payload cannot be decrypted: it was sealed for another message, or with another key",
            "sealed",
        )
    return content


def _context(key: FleetKey, place: bytes, publisher: str) -> bytes:
    return pae(_HEADER, place, publisher.encode(), key.kid.encode())

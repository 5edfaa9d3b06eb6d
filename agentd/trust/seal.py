"""Sealing: what is secret in a message can be read only with the fleet's key, and only in that message.

XChaCha20-Poly1305 with a random nonce. What is sealed is bound to the place of its message, to its publisher
and to the key: under another number, or signed by another publisher, it does not open.
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
    """The content, sealed.

    Args:
        content: what is secret.
        key: of the fleet.
        place: the implicit assertion of the message.
        publisher: the ID of the key that signs the message.
    """
    from agentd.trust import sodium  # noqa: PLC0415 (whoever only reads does without)

    return sodium.seal(content, _context(key, place, publisher), key.data)


def unseal(sealed: bytes, key: FleetKey, place: bytes, publisher: str) -> bytes:
    """What was sealed; the arguments are those of `seal`.

    Raises:
        Untrusted: it was not sealed with this key, in this place, by this publisher.
    """
    from agentd.trust import sodium  # noqa: PLC0415 (as above)

    content = sodium.unseal(sealed, _context(key, place, publisher), key.data)
    if content is None:
        raise Untrusted(
            "what is sealed in the message does not open: it was sealed for another one", "sealed"
        )
    return content


def _context(key: FleetKey, place: bytes, publisher: str) -> bytes:
    return pae(_HEADER, place, publisher.encode(), key.kid.encode())

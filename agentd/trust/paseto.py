"""PASETO v4.public: tokens that are signed, not encrypted.

Owns the format of a token. What its payload and footer mean, and whose key it is, is up to `message`.

Source: https://github.com/paseto-standard/paseto-spec/blob/master/docs/01-Protocol-Versions/Version4.md
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from agentd.trust.encoding import decode64, encode64, pae
from agentd.trust.keys import PublicKey, SecretKey

HEADER: Final = "v4.public."
LARGEST_FOOTER: Final = 128
"""Bytes of a footer."""

_SIGNATURE: Final = 64
_TOKEN: Final = re.compile(rf"{re.escape(HEADER)}([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?")


class Token(NamedTuple):
    """A token that was parsed, but not verified: `is_by` does that."""

    payload: bytes
    footer: bytes
    signature: bytes

    def is_by(self, key: PublicKey, assertion: bytes = b"") -> bool:
        """Whether this key signed it, with this implicit assertion, which the token does not contain."""
        from agentd.trust import sodium  # noqa: PLC0415 (whoever only reads does without)

        return sodium.is_signed(_signed(self.payload, self.footer, assertion), self.signature, key.data)


def sign(payload: bytes, key: SecretKey, footer: bytes = b"", assertion: bytes = b"") -> str:
    """The token with this payload."""
    from agentd.trust import sodium  # noqa: PLC0415 (as above)

    signature = sodium.sign(_signed(payload, footer, assertion), key.seed, key.public.data)
    token = HEADER + encode64(payload + signature)
    return f"{token}.{encode64(footer)}" if footer else token


def parse_token(text: str, largest: int) -> Token:
    """Parse a token.

    Args:
        text: untrusted.
        largest: maximum length; checked before anything else.

    Raises:
        ValueError: it is not a token, or not canonically encoded.
    """
    if len(text) > largest:
        raise ValueError(f"it is longer than {largest} bytes")
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise ValueError(f"it does not have the form {HEADER}PAYLOAD.FOOTER")
    data, footer = decode64(found[1]), decode64(found[2] or "")
    if len(data) <= _SIGNATURE:
        raise ValueError("it has no payload")
    if len(footer) > LARGEST_FOOTER:
        raise ValueError(f"its footer is longer than {LARGEST_FOOTER} bytes")
    return Token(data[:-_SIGNATURE], footer, data[-_SIGNATURE:])


def _signed(payload: bytes, footer: bytes, assertion: bytes) -> bytes:
    return pae(HEADER.encode(), payload, footer, assertion)

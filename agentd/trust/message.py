"""A signed message as it is stored in Consul: its place in the log, and a token that is valid only there.

Owns the format (docs/message-format.md). The encoding is canonical: no bit can be changed without the message
being refused. A message that was parsed is not verified yet: `Keyring.verify` does that.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from agentd.errors import BadDocument
from agentd.trust.claims import Claims, parse_claims, render_claims
from agentd.trust.encoding import decode64, encode64
from agentd.trust.keys import PUBLISHER_ID, FleetKey, SecretKey, is_kid
from agentd.trust.paseto import Token, parse_token, sign
from agentd.trust.seal import seal

FORMAT: Final = 2
LARGEST: Final = 64 * 1024
"""Bytes of a message."""

_NAME: Final = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_LAST: Final = 9 * 10**15  # numbers stay below this one
_MESSAGE: Final = re.compile(
    rf'\{{"format":{FORMAT},"fleet":"({_NAME})","name":"({_NAME})",'
    r'"num":([1-9][0-9]{0,15}),"prev":(0|[1-9][0-9]{0,15}),"token":"([A-Za-z0-9_.-]+)"\}',
    re.ASCII,
)
_FOOTER: Final = re.compile(rb'\{"kid":"([A-Za-z0-9_.-]{1,100})"\}')


class Place(NamedTuple):
    """A message's place in the log; it is signed for this place alone.

    Attributes:
        fleet, name: of the log.
        num: its number.
        prev: the number of the message before it, 0 if there was none.
    """

    fleet: str
    name: str
    num: int
    prev: int

    @property
    def assertion(self) -> bytes:
        """The implicit assertion of its token. No name contains a slash."""
        return f"agentd/{FORMAT}/{self.fleet}/{self.name}/{self.num}/{self.prev}".encode()


class SignedMessage(NamedTuple):
    """A message that was parsed, but not verified: `Keyring.verify` does that.

    Attributes:
        place: its place by its own account; the caller compares it with its key in Consul.
        token: the signed part.
        kid: the ID of the key that it names as its signer's.
        claims: those of the token.
    """

    place: Place
    token: Token
    kid: str
    claims: Claims

    @property
    def fleet_kid(self) -> str | None:
        """The ID of the key with which its payload is sealed; None if it is not sealed."""
        found = self.claims.get("key")
        return found if isinstance(found, str) else None

    def bytes_of(self, claim: str) -> bytes:
        """The decoded value of a claim, `body` or `sealed`, which it must have."""
        return decode64(str(self.claims[claim]))


def write_message(place: Place, claims: Claims, key: SecretKey) -> bytes:
    """Sign a message with these claims.

    Raises:
        BadDocument: `parse_message` would refuse it: a claim is wrong, or it is too large.
    """
    footer = f'{{"kid":"{key.kid}"}}'.encode()
    token = sign(render_claims(claims), key, footer, place.assertion)
    raw = (
        f'{{"format":{FORMAT},"fleet":"{place.fleet}","name":"{place.name}",'
        f'"num":{place.num},"prev":{place.prev},"token":"{token}"}}'
    ).encode()
    parse_message(raw)
    return raw


def with_body(claims: Claims, body: bytes) -> Claims:
    """The claims with a payload that is not encrypted."""
    return {**claims, "body": encode64(body)}


def with_sealed(claims: Claims, body: bytes, place: Place, key: FleetKey, publisher: str) -> Claims:
    """The claims with an encrypted payload, for a message in that place.

    Args:
        claims: the others.
        body: the payload, at most `LARGEST_BODY` bytes.
        place: of the message.
        key: of the fleet.
        publisher: the ID of the key that will sign it.
    """
    sealed = seal(body, key, place.assertion, publisher)
    return {**claims, "sealed": encode64(sealed), "key": key.kid}


def parse_message(raw: bytes) -> SignedMessage:
    """Parse a message; its size is checked before anything else.

    Raises:
        BadDocument: it is not one, or not canonically encoded.
    """
    if len(raw) > LARGEST:
        raise BadDocument(f"the message has {len(raw)} bytes; at most {LARGEST} are read")
    found = _MESSAGE.fullmatch(raw.decode("latin-1"))
    if found is None:
        raise BadDocument("it does not have the form of a signed message")
    place = Place(found[1], found[2], int(found[3]), int(found[4]))
    if not place.prev < place.num < _LAST:
        raise BadDocument("the message comes before the one that it follows")
    try:
        token = parse_token(found[5], LARGEST)
    except ValueError as error:
        raise BadDocument(f"its token cannot be used: {error}") from error
    footer = _FOOTER.fullmatch(token.footer)
    kid = footer[1].decode() if footer else ""
    if not is_kid(kid, PUBLISHER_ID):
        raise BadDocument("its footer does not name the key of a publisher")
    claims = parse_claims(token.payload)
    if int(claims.get("first", 0)) >= place.num:
        raise BadDocument("the message was signed again before it was published")
    return SignedMessage(place, token, kid, claims)

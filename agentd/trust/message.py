"""A signed message, as it lies in Consul: its place in the log, and a token that is valid in that place only.

Owns the format (docs/message-format.md). There is exactly one way to write a message, so that no byte of it
can be changed unnoticed. That it can be read proves nothing: `Keyring.verify` does.
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
    """Where a message lies; it is signed for this place alone.

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
    """A message that was read. Nothing of it is known to be true before `Keyring.verify`.

    Attributes:
        place: where it says that it lies; whether it lies there is up to the caller.
        token: signs the rest.
        kid: the ID of the key that is said to have signed it.
        claims: what it says.
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
        """Those of `body` or `sealed`, one of which it must have."""
        return decode64(str(self.claims[claim]))


def write_message(place: Place, claims: Claims, key: SecretKey) -> bytes:
    """The message with these claims, signed.

    Raises:
        BadDocument: no reader would take it: a claim is wrong, or it is too large.
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
    """The claims, with a payload that anybody may read."""
    return {**claims, "body": encode64(body)}


def with_sealed(claims: Claims, body: bytes, place: Place, key: FleetKey, publisher: str) -> Claims:
    """The claims, with a payload that only the fleet can read, for a message in that place.

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
    """The message in these bytes.

    Raises:
        BadDocument: they are none. What follows is not said of a part that is not as it must be.
    """
    if len(raw) > LARGEST:
        raise BadDocument(f"the message has {len(raw)} bytes; at most {LARGEST} are read")
    found = _MESSAGE.fullmatch(raw.decode("latin-1"))
    if found is None:
        raise BadDocument("it is not written as a signed message is")
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
        raise BadDocument("its footer does not name one publisher's key")
    return SignedMessage(place, token, kid, parse_claims(token.payload))

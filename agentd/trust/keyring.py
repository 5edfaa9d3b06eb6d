"""Verifies and decrypts messages on a node; signs and encrypts them on a publisher's host.

Owns that nothing is decrypted before it was verified. It reads no file and no clock: whether a message has
expired, or is a replay, is up to those who follow the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from agentd.errors import BadDocument, BadKey, NoFleetKey, Untrusted
from agentd.trust.claims import Claims
from agentd.trust.keys import FleetKey, PublicKey, SecretKey
from agentd.trust.message import Place, SignedMessage, with_body, with_sealed, write_message
from agentd.trust.pattern import fits
from agentd.trust.seal import unseal

_CONTENT: Final = ("body", "sealed", "key")


class Publisher(NamedTuple):
    """Who may send what.

    Attributes:
        name: as the configuration has it.
        keys: any of them may have signed; two while one is being replaced.
        may: the names that it may send: exact, or a prefix with `*` at the end.
    """

    name: str
    keys: tuple[PublicKey, ...]
    may: tuple[str, ...]

    def may_send(self, name: str) -> bool:
        """Whether it may send messages of that name."""
        return any(fits(name, pattern) for pattern in self.may)


class Verified(NamedTuple):
    """A message that `publisher` has signed for this place, and may send."""

    message: SignedMessage
    publisher: str


class Keyring:
    """Whose messages are accepted, and the keys that decrypt them.

    Args:
        publishers: those who may send anything.
        fleet_keys: any of them decrypts.

    Raises:
        BadKey: two publishers have the same key.
    """

    def __init__(self, publishers: Sequence[Publisher], fleet_keys: Sequence[FleetKey] = ()) -> None:
        self._publishers: dict[str, tuple[Publisher, PublicKey]] = {}
        self._fleet_keys: Mapping[str, FleetKey] = {key.kid: key for key in fleet_keys}
        for publisher in publishers:
            for key in publisher.keys:
                if key.kid in self._publishers:
                    raise BadKey(f"publishers.{publisher.name} has a key that is there twice")
                self._publishers[key.kid] = publisher, key

    def check(self) -> None:
        """Check that the publishers' keys are valid; nobody can sign with one that is not.

        Raises:
            BadKey: one is not, or PyNaCl is not installed.
        """
        from agentd.trust import sodium  # noqa: PLC0415 (the start of the daemon need not wait for it)

        for publisher, key in self._publishers.values():
            if not sodium.is_point(key.data):
                raise BadKey(f"publishers.{publisher.name} has a key that is not a valid Ed25519 public key")

    def verify(self, message: SignedMessage) -> Verified:
        """Verify who sent the message.

        Raises:
            Untrusted: the signer is unknown, the signature is wrong, or the publisher may not send this name.
        """
        publisher, key = self._publishers.get(message.kid, (None, None))
        if publisher is None or key is None:
            raise Untrusted(f"it is signed with the key {message.kid}, which no publisher has", "unknown")
        if not message.token.is_by(key, message.place.assertion):
            raise Untrusted(f"its signature is not that of {publisher.name}, for this place", "signature")
        if not publisher.may_send(message.place.name):
            raise Untrusted(f"{publisher.name} may not send {message.place.name}", "forbidden")
        return Verified(message, publisher.name)

    def body(self, verified: Verified) -> bytes | None:
        """The payload of a verified message, decrypted if it is sealed; None if it is in a key of its own.

        Raises:
            NoFleetKey: it is sealed with a fleet key that this node does not have.
            Untrusted: it was not sealed for this message.
        """
        message = verified.message
        kid = message.fleet_kid
        if kid is None:
            return message.bytes_of("body") if "body" in message.claims else None
        key = self._fleet_keys.get(kid)
        if key is None:
            raise NoFleetKey(
                f"message {message.place.num} is sealed with the fleet key {kid}, which this node lacks: add"
                " its file to trust.fleet_keys"
            )
        return unseal(message.bytes_of("sealed"), key, message.place.assertion, message.kid)


class Signer(NamedTuple):
    """Signs and seals messages for one publisher.

    Attributes:
        key: signs.
        fleet_key: seals; None where nothing is sealed.
        keyring: knows the other publishers; None if nobody does.
    """

    key: SecretKey
    fleet_key: FleetKey | None = None
    keyring: Keyring | None = None

    def knows(self, message: SignedMessage) -> bool:
        """Whether this publisher, or another one that may send its name, has signed the message."""
        if message.token.is_by(self.key.public, message.place.assertion):
            return True
        try:
            return self.keyring is not None and bool(self.keyring.verify(message))
        except Untrusted:
            return False

    def write(self, place: Place, claims: Claims, body: bytes | None, *, sealed: bool = False) -> bytes:
        """Sign a message, and seal its payload; to be called again if its number is taken.

        Args:
            place: of the message.
            claims: all but the payload.
            body: the payload, at most 32 KiB; None if the claims name its digest.
            sealed: whether to encrypt it.

        Raises:
            NoFleetKey: it is to be sealed, and there is no fleet key.
            BadDocument: a claim is wrong, or the message is too large.
        """
        if body is None:
            if sealed:
                raise BadDocument("a payload that lies in a key of its own cannot be sealed")
            return write_message(place, claims, self.key)
        if not sealed:
            return write_message(place, with_body(claims, body), self.key)
        if self.fleet_key is None:
            raise NoFleetKey(
                f"{place.name} is to be sealed, and there is no fleet key: add its file to trust.fleet_keys"
            )
        filled = with_sealed(claims, body, place, self.fleet_key, self.key.kid)
        return write_message(place, filled, self.key)

    def resign(self, verified: Verified, keyring: Keyring, place: Place, *, sealed: bool = False) -> bytes:
        """The same message for another place, with this signer's keys; a sealed one stays sealed.

        It says under which number it was published first, so that nobody runs a command twice.

        Args:
            verified: the message.
            keyring: decrypts it.
            place: with a new number: messages are immutable.
            sealed: whether to seal it even if it was not.

        Raises:
            NoFleetKey: it is sealed, and the key that decrypts it, or one to seal it again, is missing.
            Untrusted: it was not sealed for its own place.
            BadDocument: the message is too large.
        """
        claims = {name: one for name, one in verified.message.claims.items() if name not in _CONTENT}
        claims.setdefault("first", verified.message.place.num)
        sealed = sealed or verified.message.fleet_kid is not None
        return self.write(place, claims, keyring.body(verified), sealed=sealed)

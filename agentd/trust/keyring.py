"""The keys of one node or publisher: who may send what, what can be opened, and with what it signs and seals.

Owns that nothing is opened that was not verified first. It reads no file and asks no clock: whether a message
is over, or older than what was seen, is up to those who follow the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from agentd.errors import BadDocument, BadKey, NoFleetKey, Untrusted
from agentd.trust.claims import Claims
from agentd.trust.keys import FleetKey, PublicKey, SecretKey
from agentd.trust.message import Place, SignedMessage, with_body, with_sealed, write_message
from agentd.trust.seal import unseal

ANY: Final = "*"
"""At the end of a pattern: any characters, or none."""

_CONTENT: Final = ("body", "sealed", "key")


class Publisher(NamedTuple):
    """Who may send what.

    Attributes:
        name: as the configuration has it.
        keys: any of which may have signed: one, or two while it is being replaced.
        may: names, or beginnings of names with `*` at the end.
    """

    name: str
    keys: tuple[PublicKey, ...]
    may: tuple[str, ...]

    def may_send(self, name: str) -> bool:
        """Whether messages of that name are believed of this publisher."""
        return any(fits(name, pattern) for pattern in self.may)


def fits(name: str, pattern: str) -> bool:
    """Whether a name is the one of the pattern, or begins with what stands before its `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith(ANY) else name == pattern


class Verified(NamedTuple):
    """A message that was verified: `publisher` signed it, for this place, and may."""

    message: SignedMessage
    publisher: str


class Keyring:
    """What is believed, and what can be opened.

    Args:
        publishers: all that are believed.
        fleet_keys: all that open; the first one seals.

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
        """Look at the publishers' keys; it is not needed for safety, since nobody can sign with such a one.

        Raises:
            BadKey: one is no key, or PyNaCl is not installed.
        """
        from agentd.trust import sodium  # noqa: PLC0415 (the start of the daemon need not wait for it)

        for publisher, key in self._publishers.values():
            if not sodium.is_point(key.data):
                raise BadKey(f"publishers.{publisher.name} has a key that no secret key belongs to")

    def verify(self, message: SignedMessage) -> Verified:
        """Say who sent the message.

        Raises:
            Untrusted: nobody who may did.
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
        """The payload of a verified message, opened if it is sealed; None if it lies in a key of its own.

        Raises:
            NoFleetKey: it is sealed with a key that is not here.
            Untrusted: it was not sealed for this message.
        """
        message = verified.message
        kid = message.fleet_kid
        if kid is None:
            return message.bytes_of("body") if "body" in message.claims else None
        key = self._fleet_keys.get(kid)
        if key is None:
            raise NoFleetKey(
                f"message {message.place.num} is sealed with the fleet key {kid}, which is not here: add"
                " it to trust.fleet_keys"
            )
        return unseal(message.bytes_of("sealed"), key, message.place.assertion, message.kid)


class Signer(NamedTuple):
    """Writes messages for one publisher.

    Attributes:
        key: signs.
        fleet_key: seals; None where nothing is sealed.
    """

    key: SecretKey
    fleet_key: FleetKey | None = None

    def write(self, place: Place, claims: Claims, body: bytes | None, *, sealed: bool = False) -> bytes:
        """The message, as it lies in Consul; after a conflict it is written again, for its new place.

        Args:
            place: of the message.
            claims: what it says beside its payload.
            body: the payload, at most 32 KiB; None if the claims say where it lies.
            sealed: whether only the fleet may read it.

        Raises:
            NoFleetKey: it is to be sealed, and there is no key for that.
            BadDocument: no reader would take it.
        """
        if body is None:
            if sealed:
                raise BadDocument("a payload that lies in a key of its own cannot be sealed")
            return write_message(place, claims, self.key)
        if not sealed:
            return write_message(place, with_body(claims, body), self.key)
        if self.fleet_key is None:
            raise NoFleetKey(f"{place.name} is sealed, and there is no fleet key: add it to trust.fleet_keys")
        filled = with_sealed(claims, body, place, self.fleet_key, self.key.kid)
        return write_message(place, filled, self.key)

    def is_current(self, message: SignedMessage) -> bool:
        """Whether a message would be signed, and sealed if it is, with the same keys today."""
        sealing = self.fleet_key.kid if self.fleet_key else None
        return message.kid == self.key.kid and message.fleet_kid in (None, sealing)

    def resign(self, verified: Verified, keyring: Keyring, place: Place) -> bytes:
        """The same message for another place, with the keys of today; what is sealed stays so.

        Args:
            verified: the message as it lies in Consul.
            keyring: opens it.
            place: with a number of its own, since a message never changes under its number.

        Raises:
            NoFleetKey: it is sealed, and a key is missing to open it, or to seal it again.
            Untrusted: it was not sealed for its own place.
            BadDocument: no reader would take it.
        """
        claims = {name: one for name, one in verified.message.claims.items() if name not in _CONTENT}
        sealed = verified.message.fleet_kid is not None
        return self.write(place, claims, keyring.body(verified), sealed=sealed)

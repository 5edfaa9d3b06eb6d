"""Keys and messages that the tests share."""

from __future__ import annotations

from typing import Final

from agentd.trust import sodium
from agentd.trust.claims import Claims
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.keys import FleetKey, PublicKey, SecretKey
from agentd.trust.message import Place, SignedMessage, parse_message

PLACE: Final = Place("production", "deploy", 1_790_000_000_001, 1_790_000_000_000)
CLAIMS: Final[Claims] = {
    "kind": "payload", "via": "publish", "id": "b9f4", "issued": 1_790_000_000_000, "publisher": "ops@admin1",
}  # fmt: skip


def secret_key(number: int) -> SecretKey:
    """The secret key with that number."""
    seed = bytes([number]) * 32
    return SecretKey(seed, PublicKey(sodium.public_of(seed)))


OPS: Final = secret_key(1)
OTHER: Final = secret_key(2)
FLEET: Final = FleetKey(bytes(range(32)))
KEYRING: Final = Keyring([Publisher("ops", (OPS.public,), ("deploy",))], [FLEET])


def written(
    body: bytes = b"release-17",
    *,
    sealed: bool = False,
    key: SecretKey = OPS,
    place: Place = PLACE,
    fleet_key: FleetKey = FLEET,
) -> bytes:
    """A message as it lies in Consul."""
    return Signer(key, fleet_key).write(place, CLAIMS, body, sealed=sealed)


def body_of(raw: bytes, keyring: Keyring = KEYRING) -> bytes | None:
    """What a node takes from it."""
    return keyring.body(keyring.verify(parse_message(raw)))


def moved(raw: bytes, place: Place) -> SignedMessage:
    """What an attacker makes of a message: the same token, in another place."""
    return parse_message(raw)._replace(place=place)

"""The keys and their text form: publishers sign with their own, a fleet encrypts with one of its own.

Publishers' keys and their IDs are written as PASERK says (`k4.secret.`, `k4.public.`, `k4.pid.`), so that
other tools know them. A fleet key is used for nothing that PASETO defines, so it has prefixes of its own; its
ID is made in the same way. No `repr` shows a secret.

Source: https://github.com/paseto-standard/paserk
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agentd.trust.encoding import decode64, encode64

PUBLIC: Final = "k4.public."
SECRET: Final = "k4.secret."  # noqa: S105 (a prefix)
FLEET: Final = "agentd1.fleet."
PUBLISHER_ID: Final = "k4.pid."
FLEET_ID: Final = "agentd1.fid."

_BYTES: Final = 32
_ID_BYTES: Final = 33  # 264 bits end with a whole character of base64
_DIGITS: Final = rf"[A-Za-z0-9_-]{{{_ID_BYTES * 4 // 3}}}"


class PublicKey(NamedTuple):
    """Verifies the signatures of one publisher.

    Attributes:
        data: 32 bytes, an Ed25519 public key.
    """

    data: bytes

    @property
    def kid(self) -> str:
        """Its ID."""
        return _id(PUBLISHER_ID, self.text)

    @property
    def text(self) -> str:
        """As it is written in the configuration."""
        return PUBLIC + encode64(self.data)


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Signs for one publisher.

    Attributes:
        seed: 32 random bytes.
        public: what verifies it.
    """

    seed: bytes = field(repr=False)
    public: PublicKey

    @property
    def kid(self) -> str:
        """The ID of its public key, by which a message names its signer."""
        return self.public.kid

    @property
    def text(self) -> str:
        """As its file has it: secret."""
        return SECRET + encode64(self.seed + self.public.data)


@dataclass(frozen=True, slots=True)
class FleetKey:
    """Encrypts and decrypts the sealed payloads of one fleet.

    Attributes:
        data: 32 random bytes.
    """

    data: bytes = field(repr=False)

    @property
    def kid(self) -> str:
        """Its ID, from which the key cannot be derived."""
        return _id(FLEET_ID, self.text)

    @property
    def text(self) -> str:
        """As its file has it: secret."""
        return FLEET + encode64(self.data)


def new_secret_key() -> SecretKey:
    """A key for a new publisher."""
    return _secret_key(secrets.token_bytes(_BYTES))


def new_fleet_key() -> FleetKey:
    """A new key of a fleet."""
    return FleetKey(secrets.token_bytes(_BYTES))


def is_kid(text: str, prefix: str) -> bool:
    """Whether it can be the ID of a key; `prefix` is `PUBLISHER_ID` or `FLEET_ID`."""
    return text.startswith(prefix) and bool(re.fullmatch(_DIGITS, text[len(prefix) :]))


def parse_public_key(text: str) -> PublicKey:
    """The public key in this text.

    Raises:
        ValueError: it is none; the message does not quote it, since it may be a secret one.
    """
    if text.startswith((SECRET, FLEET)):
        raise ValueError(
            "is a secret key, and whoever can read this file has it now: generate a new one, and put its"
            " public key here (`agentd keys show FILE`)"
        )
    return PublicKey(_data(text, PUBLIC, _BYTES, "a public key (k4.public.…, see `agentd keys show FILE`)"))


def parse_secret(text: str) -> SecretKey | FleetKey:
    """The secret key in this text, of a publisher or of a fleet.

    Raises:
        ValueError: it is none, or its two halves do not belong together. The message does not quote it.
    """
    if text.startswith(FLEET):
        return FleetKey(_data(text, FLEET, _BYTES, "a fleet's key"))
    data = _data(text, SECRET, 2 * _BYTES, "a secret key (k4.secret.… or agentd1.fleet.…)")
    key = _secret_key(data[:_BYTES])
    if key.public.data != data[_BYTES:]:  # to sign with such a pair would give the secret away
        raise ValueError("is a secret key whose public half belongs to another one")
    return key


def _secret_key(seed: bytes) -> SecretKey:
    from agentd.trust import sodium  # noqa: PLC0415 (whoever only reads the configuration does without)

    return SecretKey(seed, PublicKey(sodium.public_of(seed)))


def _data(text: str, prefix: str, size: int, what: str) -> bytes:
    try:
        data = decode64(text.removeprefix(prefix))
    except ValueError:
        data = b""
    if not text.startswith(prefix) or len(data) != size:
        raise ValueError(f"is not {what}")
    return data


def _id(prefix: str, text: str) -> str:
    digest = hashlib.blake2b((prefix + text).encode(), digest_size=_ID_BYTES).digest()
    return prefix + encode64(digest)

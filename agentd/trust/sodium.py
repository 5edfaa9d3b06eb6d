"""libsodium, as far as it is needed, through PyNaCl: nothing else in agentd imports that.

Imported only where something is signed, verified, sealed or opened. It costs 3 ms and 1 MB; `cryptography`,
which has no XChaCha20, costs 6 ms and 7 MB.

Source: https://doc.libsodium.org/public-key_cryptography/public-key_signatures,
https://doc.libsodium.org/secret-key_cryptography/aead/chacha20-poly1305/xchacha20-poly1305_construction
"""

from __future__ import annotations

import secrets
from typing import Final

from agentd.errors import BadKey

try:
    from nacl import bindings
    from nacl.exceptions import CryptoError
except ImportError as error:
    raise BadKey("signed messages need PyNaCl: install agentd[trust]") from error

SEED: Final = bindings.crypto_sign_SEEDBYTES
"""Bytes of the secret from which an Ed25519 key is made; its public key has as many."""
SIGNATURE: Final = bindings.crypto_sign_BYTES
"""Bytes of a signature."""
SEALING: Final = bindings.crypto_aead_xchacha20poly1305_ietf_KEYBYTES
"""Bytes of a key that seals."""
NONCE: Final = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
"""Bytes at the beginning of what is sealed."""


def public_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a secret seed."""
    return bindings.crypto_sign_seed_keypair(seed)[0]


def is_point(public: bytes) -> bool:
    """Whether these 32 bytes can be an Ed25519 public key, under which not just anything is signed."""
    return bindings.crypto_core_ed25519_is_valid_point(public)


def sign(message: bytes, seed: bytes, public: bytes) -> bytes:
    """The signature of a message by the key that consists of the two."""
    return bindings.crypto_sign(message, seed + public)[:SIGNATURE]


def is_signed(message: bytes, signature: bytes, public: bytes) -> bool:
    """Whether the signature is that of the message by that key."""
    try:
        bindings.crypto_sign_open(signature + message, public)
    except CryptoError:
        return False
    return True


def seal(content: bytes, context: bytes, key: bytes) -> bytes:
    """The content, sealed: a random nonce, and what it has become; only with `context` can it be opened."""
    nonce = secrets.token_bytes(NONCE)
    return nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(content, context, nonce, key)


def unseal(sealed: bytes, context: bytes, key: bytes) -> bytes | None:
    """What was sealed; None if it was not sealed like that."""
    nonce, content = sealed[:NONCE], sealed[NONCE:]
    if len(content) < bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES:
        return None
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(content, context, nonce, key)
    except CryptoError:
        return None

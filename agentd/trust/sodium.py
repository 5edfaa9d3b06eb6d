"""libsodium through PyNaCl, which nothing else in agentd imports.

Import it only where something is signed, verified, encrypted or decrypted: it costs 3 ms and 1 MB.
(`cryptography`, which has no XChaCha20, costs 6 ms and 7 MB.)

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
    raise BadKey(
        "signed messages need PyNaCl: install what config/requirements/trust.txt lists (docs/installing.md)"
    ) from error

SIGNATURE: Final = bindings.crypto_sign_BYTES
"""Bytes of a signature."""
NONCE: Final = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
"""Bytes of a nonce."""


def public_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a secret seed."""
    return bindings.crypto_sign_seed_keypair(seed)[0]


def is_point(public: bytes) -> bool:
    """Whether these 32 bytes are a valid Ed25519 public key, and not one of small order."""
    return bindings.crypto_core_ed25519_is_valid_point(public)


def sign(message: bytes, seed: bytes, public: bytes) -> bytes:
    """The signature of a message."""
    return bindings.crypto_sign(message, seed + public)[:SIGNATURE]


def is_signed(message: bytes, signature: bytes, public: bytes) -> bool:
    """Whether the signature is valid."""
    try:
        bindings.crypto_sign_open(signature + message, public)
    except CryptoError:
        return False
    return True


def seal(content: bytes, context: bytes, key: bytes) -> bytes:
    """A random nonce, followed by the ciphertext; `context` is the associated data."""
    nonce = secrets.token_bytes(NONCE)
    return nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(content, context, nonce, key)


def unseal(sealed: bytes, context: bytes, key: bytes) -> bytes | None:
    """The plaintext; None if the key or `context` is another one, or a bit was changed."""
    nonce, content = sealed[:NONCE], sealed[NONCE:]
    if len(content) < bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES:
        return None
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(content, context, nonce, key)
    except CryptoError:
        return None

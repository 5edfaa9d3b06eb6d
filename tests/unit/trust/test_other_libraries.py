"""Two libraries that share no code with libsodium read what agentd writes, and write what it reads.

pyseto signs with OpenSSL. The other one is written here after docs/message-format.md, on pycryptodomex alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any, Final

import pyseto
import pytest
from Cryptodome.Cipher import ChaCha20_Poly1305
from Cryptodome.Signature import eddsa

from agentd.fleet.envelope import Draft, parse_envelope
from agentd.fleet.rollout import Admission
from agentd.trust.keyring import Signer
from agentd.trust.message import parse_message
from tests.unit.trust.samples import CLAIMS, FLEET, OPS, PLACE, body_of, written

ASSERTION: Final = b"agentd/2/production/deploy/1790000000001/1790000000000"
FOOTER: Final = f'{{"kid":"{OPS.kid}"}}'.encode()
PAYLOAD: Final = {**CLAIMS, "body": "aGVsbG8"}
OUTER: Final = (
    '{{"format":2,"fleet":"production","name":"deploy",'
    '"num":1790000000001,"prev":1790000000000,"token":"{token}"}}'
)


def b64(data: bytes) -> str:
    """base64url, without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    """And back."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pae(*pieces: bytes) -> bytes:
    """PASETO's own encoding of several byte strings."""
    return struct.pack("<Q", len(pieces)) + b"".join(struct.pack("<Q", len(one)) + one for one in pieces)


def signed(payload: bytes, footer: bytes) -> bytes:
    """What the signature covers."""
    return pae(b"v4.public.", payload, footer, ASSERTION)


def sealed_context() -> bytes:
    """What sealing covers beside the payload."""
    return pae(b"agentd1.seal.", ASSERTION, OPS.kid.encode(), FLEET.kid.encode())


# ---------------------------------------------------------------- pyseto


def test_pyseto_reads_what_agentd_writes() -> None:
    """And finds the key by its own computation of the ID."""
    key = pyseto.Key.from_asymmetric_key_params(4, x=OPS.public.data)
    token = json.loads(written(b"hello"))["token"]
    found = pyseto.decode(key, token, implicit_assertion=ASSERTION, deserializer=json)
    assert found.payload == PAYLOAD
    assert found.footer == {"kid": key.to_paserk_id()}


def test_agentd_reads_what_pyseto_writes() -> None:
    """With its own JSON, and a key that it read from PASERK."""
    key = pyseto.Key.from_paserk(OPS.text)
    token = pyseto.encode(
        key, json.dumps(PAYLOAD).encode(), footer=FOOTER, implicit_assertion=ASSERTION
    ).decode()
    assert body_of(OUTER.format(token=token).encode()) == b"hello"


def test_agentd_reads_a_step_of_a_rollout_that_pyseto_writes() -> None:
    """And nodes know whom it admits."""
    key = pyseto.Key.from_paserk(OPS.text)
    claims = PAYLOAD | {"kind": "admit", "rollout": "r1", "below": 7, "nodes": "lb1,lb2", "among": "canary"}
    token = pyseto.encode(
        key, json.dumps(claims).encode(), footer=FOOTER, implicit_assertion=ASSERTION
    ).decode()
    found = parse_envelope(OUTER.format(token=token).encode())
    assert (found.rollout, found.admission) == ("r1", Admission(7, ("lb1", "lb2"), "canary"))


def test_pyseto_refuses_another_place() -> None:
    """The assertion is part of what is signed for it as well."""
    key = pyseto.Key.from_asymmetric_key_params(4, x=OPS.public.data)
    token = json.loads(written(b"hello"))["token"]
    with pytest.raises(pyseto.VerifyError):
        pyseto.decode(key, token, implicit_assertion=ASSERTION.replace(b"deploy", b"tickets"))


# ---------------------------------------------------------------- pycryptodomex


def read(raw: bytes) -> Any:  # noqa: ANN401 (any JSON)
    """The claims of a message, verified, after the documentation of the format."""
    outer = json.loads(raw)
    assert list(outer) == ["format", "fleet", "name", "num", "prev", "token"]
    header, data, footer = outer["token"].rsplit(".", 2)
    assert header == "v4.public"
    payload, signature = unb64(data)[:-64], unb64(data)[-64:]
    verifier = eddsa.new(eddsa.import_public_key(OPS.public.data), "rfc8032")
    verifier.verify(signed(payload, unb64(footer)), signature)
    return json.loads(payload)


def write(claims: dict[str, Any]) -> bytes:
    """The message with these claims."""
    payload = json.dumps(claims, separators=(",", ":")).encode()
    signer = eddsa.new(eddsa.import_private_key(OPS.seed), "rfc8032")
    signature = signer.sign(signed(payload, FOOTER))
    token = f"v4.public.{b64(payload + signature)}.{b64(FOOTER)}"
    return OUTER.format(token=token).encode()


def test_pycryptodomex_reads_the_end_of_a_rollout_that_agentd_signs() -> None:
    """With all that is said of it."""
    draft = Draft(b"hello", 1_790_000_000, "ops@admin1", kind="abort", id="b9f4", rollout="r1", restores=7)
    raw = draft.numbered(*PLACE, signer=Signer(OPS)).raw
    assert read(raw) == PAYLOAD | {"kind": "abort", "rollout": "r1", "restores": 7}


def test_pycryptodomex_reads_what_agentd_signs() -> None:
    """The claims are as they were."""
    assert read(written(b"hello")) == PAYLOAD


def test_agentd_reads_what_pycryptodomex_signs() -> None:
    """Byte for byte what agentd writes."""
    assert write(PAYLOAD) == written(b"hello")


def test_pycryptodomex_opens_what_agentd_seals() -> None:
    """A nonce of 24 bytes, then the payload, then 16 bytes of authentication."""
    claims = read(written(b"hello", sealed=True))
    sealed = unb64(claims["sealed"])
    cipher = ChaCha20_Poly1305.new(key=FLEET.data, nonce=sealed[:24])
    cipher.update(sealed_context())
    assert claims["key"] == FLEET.kid
    assert cipher.decrypt_and_verify(sealed[24:-16], sealed[-16:]) == b"hello"


def test_agentd_opens_what_pycryptodomex_seals() -> None:
    """With any nonce."""
    cipher = ChaCha20_Poly1305.new(key=FLEET.data, nonce=bytes(range(24)))
    cipher.update(sealed_context())
    content, tag = cipher.encrypt_and_digest(b"hello")
    sealed = b64(bytes(range(24)) + content + tag)
    assert body_of(write({**CLAIMS, "sealed": sealed, "key": FLEET.kid})) == b"hello"


def test_the_id_of_a_key_can_be_computed_by_anybody() -> None:
    """BLAKE2b of 33 bytes over its prefix and the key as it is written."""
    for prefix, text, kid in (
        ("k4.pid.", f"k4.public.{b64(OPS.public.data)}", OPS.kid),
        ("agentd1.fid.", f"agentd1.fleet.{b64(FLEET.data)}", FLEET.kid),
    ):
        assert prefix + b64(hashlib.blake2b((prefix + text).encode(), digest_size=33).digest()) == kid


def test_the_place_is_that_of_the_message() -> None:
    """The assertion is built from what stands in the message."""
    assert parse_message(written()).place.assertion == ASSERTION == PLACE.assertion

"""The payload of a ticket key: what is accepted, what is refused, and that a refusal gives nothing away."""

from __future__ import annotations

import base64
import random
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import PermanentError
from handlers.tls_ticket_keys.payload import is_document, read_key


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that look random and are the same in every run."""
    return random.Random(seed).randbytes(size)


KEY48, KEY80 = random_bytes(48), random_bytes(80)


@pytest.mark.parametrize("key", [KEY48, KEY80])
def test_base64_of_a_key(key: bytes) -> None:
    """Base64 of 48 or 80 bytes is that key."""
    assert read_key(base64.b64encode(key)) == key


@pytest.mark.parametrize("key", [KEY48, KEY80])
def test_raw_key(key: bytes) -> None:
    """48 or 80 bytes as they are are that key."""
    assert read_key(key) == key


def test_openssl_line_breaks() -> None:
    """White space within and around base64 does not matter."""
    text = "\r\n".join(textwrap.wrap(base64.b64encode(KEY80).decode(), 64)) + " \t\n"

    assert read_key(text.encode()) == KEY80


def test_base64_padded_with_white_space_to_80_bytes() -> None:
    """Base64 of 48 bytes that white space makes 80 bytes long is still base64."""
    assert read_key(base64.b64encode(KEY48) + b" " * 16) == KEY48


@pytest.mark.parametrize(
    "payload,reason",
    [
        (b"", "payload is empty"),
        (b" \n", "payload is empty"),
        (b"hello, world", "not base64: 12 bytes"),
        (base64.b64encode(random_bytes(47)), "is 47 bytes long"),
        (base64.b64encode(random_bytes(49)), "is 49 bytes long"),
        (random_bytes(47), "is 47 bytes long"),
        (random_bytes(512), "is 512 bytes long"),
        (base64.b64encode(random_bytes(36)), "is 36 bytes long"),
        (base64.b64encode(random_bytes(60)), "is 60 bytes long"),
        (b"!" + base64.b64encode(random_bytes(35))[1:], "not base64: 48 bytes"),
        (base64.urlsafe_b64encode(b"\xff" * 48), "not base64: 64 bytes"),
        (base64.b64encode(KEY80).rstrip(b"="), "not base64: 107 bytes"),
        (base64.b64encode(KEY80)[:-2] + b"9=", "not base64: 108 bytes"),
        (bytes(48), "key is not random"),
        (b"\xa5" * 80, "key is not random"),
        (KEY48[:32] + bytes(16), "key is not random"),
        (base64.b64encode(random_bytes(24).hex().encode()), "key is not random"),
    ],
)
def test_refused_with_a_reason(payload: bytes, reason: str) -> None:
    """What is not a key is refused, and the message says why."""
    with pytest.raises(PermanentError, match=reason):
        read_key(payload)


@given(st.one_of(st.binary(max_size=600), st.text(max_size=200).map(str.encode)))
def test_anything_is_a_key_or_refused(payload: bytes) -> None:
    """No payload raises anything but a refusal, and what is accepted is 48 or 80 bytes."""
    try:
        key = read_key(payload)
    except PermanentError:
        return
    assert len(key) in {48, 80}
    assert key == payload or base64.b64encode(key) == b"".join(payload.split())


@given(st.binary(min_size=12, max_size=120))
def test_a_refusal_gives_nothing_away(secret: bytes) -> None:
    """Neither the payload nor a piece of it stands in the message."""
    text = base64.b64encode(secret)[:-1]

    with pytest.raises(PermanentError) as refused:
        read_key(text)

    message = str(refused.value)
    assert not any(text[at : at + 12].decode() in message for at in range(len(text) - 11))


def test_a_document_is_told_from_a_key() -> None:
    """Also from a random key that happens to begin like one."""
    unlucky = b"{" + KEY80[1:]

    assert is_document(b'{"v":1}\n')
    assert not any(is_document(one) for one in (unlucky, base64.b64encode(KEY80), b"", b"[1]"))
    assert read_key(unlucky) == unlucky

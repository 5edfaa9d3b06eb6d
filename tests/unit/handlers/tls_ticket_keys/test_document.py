"""The document of a coordinated ring: what is read back, what is refused, and that nothing is given away."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import PermanentError
from handlers.tls_ticket_keys.document import LARGEST, MOST_KEYS, Document, Phase, key_digest

NOW = 1_800_000_000


def secret(number: int, size: int = 80) -> bytes:
    """Key `number`: the same in every run."""
    return random.Random(number).randbytes(size)


KEYS = [secret(number, size) for number, size in enumerate((80, 48, 80, 48, 80))]
STAGED = Document(
    "staged",
    tuple(KEYS[:3]),
    KEYS[3],
    since=NOW,
    promoted=NOW - 500,
    demoted={key_digest(KEYS[1]): NOW - 400},
    bell=(12, "b5f9e0b2-94d7-4c45-9d4c-4f6fcf3ed5a4"),
    revoked=NOW - 9000,
    without=("lb-3", "lb-4"),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any that can be made."""
    phase: Phase = draw(st.sampled_from(["idle", "staged", "promoted"]))
    shortest = 0 if phase == "staged" else 1
    numbers = st.lists(st.integers(0, 10_000), min_size=shortest + 1, max_size=12, unique=True)
    *ring, following = [secret(one, draw(st.sampled_from([48, 80]))) for one in draw(numbers)]
    times = st.integers(0, 10**11)
    old = st.sampled_from([key_digest(one) for one in ring[1:]]) if ring[1:] else st.nothing()
    return Document(
        phase,
        tuple(ring),
        following if phase == "staged" else None,
        since=draw(times),
        promoted=draw(st.none() | times) if ring else None,
        demoted=draw(st.dictionaries(old, times)),
        bell=draw(st.none() | st.tuples(st.integers(0, 2**64 - 1), st.just("an-event"))),
        revoked=draw(st.none() | times),
        without=tuple(draw(st.lists(st.text("abc-", min_size=1), max_size=3, unique=True))),
    )


def refusal(payload: bytes) -> str:
    """With what it is refused; no message says anything of a key."""
    with pytest.raises(PermanentError) as caught:
        Document.parse(payload)
    text = str(caught.value)
    assert caught.value.__cause__ is None
    for key in KEYS:
        encoded = base64.b64encode(key).decode()
        assert not any(encoded[at : at + 6] in text for at in range(0, len(encoded) - 6, 2))
    return text


def altered(**fields: Any) -> bytes:  # noqa: ANN401 (any JSON)
    """`STAGED` with other fields; None takes one away."""
    read = json.loads(STAGED.render()) | fields
    return json.dumps({name: value for name, value in read.items() if value is not None}).encode()


@given(documents())
def test_round_trip(document: Document) -> None:
    """What was rendered is read back as it was."""
    assert Document.parse(document.render()) == document


def test_the_largest_ring_can_be_published() -> None:
    """With a time for every key."""
    ring = tuple(secret(number) for number in range(MOST_KEYS))
    demoted = {key_digest(one): NOW for one in ring[1:]}

    made = Document("staged", ring, secret(999), since=NOW, demoted=demoted, bell=(2**64 - 1, "x" * 36))

    assert len(made.render()) < LARGEST
    assert Document.parse(made.render()) == made


@pytest.mark.parametrize(
    "fields,reason",
    [
        ({"v": 2}, "update agentd"),
        ({"v": True}, "only version 1"),
        ({"v": None}, "only version 1"),
        ({"phase": None}, "no 'phase'"),
        ({"ring": None}, "no 'ring'"),
        ({"since": None}, "no 'since'"),
        ({"phase": "promote"}, "'phase' is not what it should be"),
        ({"phase": ["staged"]}, "'phase' is not what it should be"),
        ({"other": 1}, "unknown field"),
        ({base64.b64encode(KEYS[0]).decode(): 1}, "unknown field"),
        ({"next": None}, "`next` if and only if it is staged"),
        ({"phase": "idle"}, "`next` if and only if it is staged"),
        ({"phase": "promoted", "next": None, "ring": []}, "ring is empty"),
        ({"ring": [], "demoted": None}, "though a key was promoted"),
        ({"ring": "x"}, "'ring' is not what it should be"),
        ({"ring": [1]}, "'ring' is not what it should be"),
        ({"since": 1.5}, "not whole"),
        ({"since": "1"}, "'since' is not what it should be"),
        ({"since": True}, "'since' is not what it should be"),
        ({"since": -1}, "'since' is not what it should be"),
        ({"since": 10**30}, "too large"),
        ({"promoted": 10**12}, "'promoted' is not what it should be"),
        ({"revoked": []}, "'revoked' is not what it should be"),
        ({"bell": [1]}, "'bell' is not what it should be"),
        ({"bell": ["1", "x"]}, "'bell' is not what it should be"),
        ({"bell": [1, "\n"]}, "'bell' is not what it should be"),
        ({"without": "lb-1"}, "'without' is not what it should be"),
        ({"without": ["lb-1", "lb-1"]}, "a node twice"),
        ({"demoted": [1]}, "'demoted' is not what it should be"),
        ({"demoted": {key_digest(KEYS[0]): NOW}}, "not an old one"),
        ({"demoted": {"0" * 16: NOW}}, "not an old one"),
    ],
)
def test_refused(fields: dict[str, Any], reason: str) -> None:
    """What contradicts itself, or is no such document."""
    assert reason in refusal(altered(**fields))


@pytest.mark.parametrize(
    "payload,reason",
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"v":1}{"v":1}', "not JSON"),
        (b"[1]", "not an object"),
        (b"[" * 20_000, "not JSON"),
        (b'{"v":NaN}', "not whole"),
        (b'{"v":"\xc3\xa4"}', "not JSON in ASCII"),
        (STAGED.render().replace(b'{"v":1', b'{"v":1,"v":1'), "a field twice"),
        (STAGED.render() + b" " * LARGEST, "bytes long"),
    ],
)
def test_not_a_document(payload: bytes, reason: str) -> None:
    """Whatever JSON in general allows."""
    assert reason in refusal(payload)


@pytest.mark.parametrize(
    "key,reason",
    [
        (base64.b64encode(KEYS[3]).decode().rstrip("=") + "\n", "is not what it should be"),
        (base64.b64encode(secret(7, 47)).decode(), "47 bytes long"),
        (base64.b64encode(bytes(80)).decode(), "not random"),
        (base64.b64encode(KEYS[4]).decode()[:-2] + "x=", "is not what it should be"),
        (base64.urlsafe_b64encode(b"\xff" * 80).decode(), "is not what it should be"),
        (base64.b64encode(KEYS[1]).decode(), "a key twice"),
        (base64.b64encode(KEYS[1][:16] + secret(7, 32)).decode(), "the same name"),
    ],
)
def test_keys_that_are_refused(key: str, reason: str) -> None:
    """In the ring as in `next`."""
    ring = json.loads(STAGED.render())["ring"]

    assert reason in refusal(altered(next=key))
    assert reason in refusal(altered(ring=[*ring, key]))


def test_a_ring_that_is_too_long() -> None:
    """With how many there may be."""
    ring = [base64.b64encode(secret(number)).decode() for number in range(MOST_KEYS + 1)]

    assert f"{MOST_KEYS + 1} keys" in refusal(altered(ring=ring, demoted=None))


@given(st.integers(0, len(STAGED.render()) - 1), st.integers(0, 255))
def test_no_alteration_is_taken_for_the_same(at: int, byte: int) -> None:
    """Another byte anywhere makes another document, or none: refused, with nothing of a key in the reason."""
    payload = bytearray(STAGED.render())
    same = payload[at] == byte
    payload[at] = byte
    try:
        read = Document.parse(bytes(payload))
    except PermanentError:
        refusal(bytes(payload))
    else:
        assert (read == STAGED) == same


def test_contradictions_cannot_be_made() -> None:
    """Whoever makes a step finds out before it is published."""
    with pytest.raises(ValueError, match="if and only if"):
        replace(STAGED, next=None)


def test_no_secret_is_shown() -> None:
    """In a traceback, say."""
    assert not any(repr(key)[2:12] in repr(STAGED) for key in KEYS)

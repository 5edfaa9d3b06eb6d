"""A message as it lies in Consul."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import BadDocument, FleetError, NoFleetKey, UnknownFormat
from agentd.fleet.document import read_document
from agentd.fleet.envelope import LARGEST, LARGEST_BODY, LARGEST_ENVELOPE, Draft, parse_envelope
from agentd.fleet.keys import POISONED, Keys
from agentd.trust.keyring import Signer
from tests.unit.trust.samples import CLAIMS, FLEET, KEYRING, OPS, PLACE, written

GOOD = {
    "format": 1, "fleet": "prod", "name": "deploy", "num": 7, "prev": 6, "kind": "payload", "via": "event",
    "id": "e1", "issued": 1.5, "publisher": "lb1", "body": "aGk=",
}  # fmt: skip

texts = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=60)
drafts = st.builds(
    Draft,
    body=st.binary(max_size=300),
    issued=st.floats(0, 1e10),
    publisher=texts,
    via=st.sampled_from(["event", "publish", "again"]),
    id=st.uuids().map(str),
    ltime=st.integers(0, 2**64 - 1),
    expires=st.none() | st.floats(0, 1e10),
    node=texts,
    service=texts,
    tag=texts,
    snapshot=st.booleans(),
)


def changed(**fields: Any) -> bytes:  # noqa: ANN401 (any JSON)
    """A good message with other fields; None removes one."""
    return json.dumps({name: one for name, one in (GOOD | fields).items() if one is not None}).encode()


@given(draft=drafts, num=st.integers(2, POISONED - 1), late=st.integers(0, 10**9))
def test_what_was_drafted_is_read(draft: Draft, num: int, late: int) -> None:
    """No field is lost on the way, and the bytes stay as they are."""
    made = draft.numbered("prod", "deploy", num, num - 1, late)
    found = parse_envelope(made.raw)
    assert found == made
    assert (found.num, found.prev, found.body, found.snapshot) == (num, num - 1, draft.body, draft.snapshot)
    assert found.late == late
    for name in (
        "issued",
        "publisher",
        "via",
        "id",
        "ltime",
        "expires",
        "node",
        "service",
        "tag",
        "snapshot",
    ):
        assert getattr(found, name) == getattr(draft, name)


def test_a_large_body_lies_elsewhere() -> None:
    """The message says under which digest."""
    draft = Draft(b"x" * (LARGEST_BODY + 1), issued=1.0, publisher="ops")
    made = draft.numbered("prod", "deploy", 1, 0)
    assert (made.body, made.sha256, made.size) == (None, draft.sha256, LARGEST_BODY + 1)


def test_the_largest_message_is_read() -> None:
    """A body of 32 KiB stands in it."""
    draft = Draft(b"x" * LARGEST_BODY, issued=1.0, publisher="ops")
    assert draft.numbered("prod", "deploy", 1, 0).body == b"x" * LARGEST_BODY


def test_a_body_that_consul_would_not_take_is_refused() -> None:
    """Before anything is written."""
    with pytest.raises(BadDocument, match=str(LARGEST)):
        Draft(b"x" * (LARGEST + 1), issued=1.0, publisher="ops").numbered("prod", "deploy", 1, 0)


def test_only_what_was_an_event_has_its_id() -> None:
    """A published message has an ID of its own."""
    assert parse_envelope(changed()).event == "e1"
    assert parse_envelope(changed(via="publish")).event is None


def test_a_message_is_believed_at_its_own_key_only() -> None:
    """Copied to another name, number or fleet it is none."""
    found = parse_envelope(changed())
    keys = Keys("prod")
    assert found.lies_at(keys, keys.message("deploy", 7))
    assert not found.lies_at(keys, keys.message("deploy", 8))
    assert not found.lies_at(keys, keys.message("other", 7))
    assert not found.lies_at(Keys("test"), Keys("test").message("deploy", 7))


def test_again_is_a_message_of_its_own() -> None:
    """Same payload and target, another ID."""
    found = parse_envelope(changed(node="lb.*", expires=3.0))
    draft = found.again(b"hi", issued=9.0, publisher="ops")
    assert (draft.via, draft.node, draft.expires, draft.issued) == ("again", "lb.*", None, 9.0)
    assert draft.id != found.id


@pytest.mark.parametrize(
    "fields", [{"format": 3, "body": None}, {"kind": "rename"}, {"via": "pigeon"}, {"format": 10**9}]
)
def test_a_newer_message_waits(fields: dict[str, Any]) -> None:
    """It is no mistake, whatever else it holds."""
    with pytest.raises(UnknownFormat):
        parse_envelope(changed(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": None}, {"format": "1"}, {"format": True}, {"format": 0}, {"format": 10**30},
        {"fleet": "a/b"},
        {"name": "_x"}, {"name": None}, {"num": 0}, {"num": POISONED}, {"num": "7"}, {"num": 7.0},
        {"prev": 7},
        {"prev": -1}, {"issued": "now"}, {"issued": -1}, {"issued": 1e300}, {"issued": True}, {"id": ""},
        {"id": "x" * 65}, {"id": ["x"]}, {"publisher": "\x1b[2J"}, {"publisher": "x" * 513}, {"body": "a"},
        {"body": "!!!!"}, {"body": "aGl="}, {"body": None}, {"body": base64.b64encode(b"x" * 32769).decode()},
        {"sha256": "ab" * 32, "size": 40000}, {"body": None, "sha256": "ab" * 32},
        {"body": None, "sha256": "AB" * 32, "size": 40000}, {"body": None, "sha256": "ab" * 32, "size": 7},
        {"snapshot": 1}, {"node": 7}, {"ltime": -1}, {"kind": 7}, {"expires": "never"},
    ],
)  # fmt: skip
def test_what_agentd_never_writes_is_told(fields: dict[str, Any]) -> None:
    """Each field is checked."""
    with pytest.raises(BadDocument):
        parse_envelope(changed(**fields))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"7", b"[]", b"{}", b"\xff", b"[" * 50_000, b'{"a":' * 10_000, b"9" * 20_000,
        b'{"format":1,"format":1}', changed()[:-1] + b',"num":8}', changed(x="y" * LARGEST_ENVELOPE),
        changed()[:-1] + b',"x":NaN}', changed()[:-1] + b',"x":"\\ud800"}', changed()[:-1] + b',"x":1e999}',
    ],
    ids=range(15),
)  # fmt: skip
def test_hostile_bytes_are_told(raw: bytes) -> None:
    """No size, nesting, number or repeated name gets further."""
    with pytest.raises(BadDocument):
        parse_envelope(raw)


@given(raw=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """Whoever reads the log catches one kind of error."""
    try:
        parse_envelope(raw)
    except FleetError:
        return


def test_an_unknown_field_is_left_alone() -> None:
    """Within a format, what is added can be ignored; it is copied with the rest."""
    raw = changed(colour="blue")
    assert parse_envelope(raw).raw == raw


def test_a_message_does_not_show_its_payload() -> None:
    """Neither in a log nor in a traceback."""
    draft = Draft(b"secret payload", issued=1.0, publisher="ops")
    assert "secret" not in repr(draft)
    assert "secret" not in repr(draft.numbered("prod", "deploy", 1, 0))
    assert base64.b64encode(b"secret payload").decode() not in repr(draft.numbered("prod", "deploy", 1, 0))


def test_the_time_of_a_message_ends() -> None:
    """At `expires`, which may be missing."""
    assert parse_envelope(changed(expires=5)).is_over(5.0)
    assert not parse_envelope(changed(expires=5)).is_over(4.9)
    assert not parse_envelope(changed()).is_over(1e10)


# ---------------------------------------------------------------- signed messages

SIGNER = Signer(OPS, FLEET)
published = st.builds(
    Draft,
    body=st.binary(max_size=300),
    issued=st.integers(0, 10**13).map(lambda ms: ms / 1000),
    publisher=texts,
    via=st.sampled_from(["publish", "again"]),
    id=st.uuids().map(str),
    expires=st.none() | st.integers(0, 10**13).map(lambda ms: ms / 1000),
    node=texts,
    service=texts,
    tag=texts,
    snapshot=st.booleans(),
    sealed=st.booleans(),
)


@given(draft=published, num=st.integers(2, POISONED - 1))
def test_what_was_signed_is_read_as_it_was_drafted(draft: Draft, num: int) -> None:
    """Times to the millisecond; a sealed payload only with the key of the fleet."""
    made = draft.numbered("prod", "deploy", num, num - 1, signer=SIGNER)
    found = parse_envelope(made.raw)
    assert found == made
    assert (found.num, found.prev, found.size, found.first) == (num, num - 1, len(draft.body), num)
    assert (found.is_sealed, found.sha256) == (draft.sealed, None)
    assert found.body == (None if draft.sealed else draft.body)
    assert found.signed is not None
    assert KEYRING.body(KEYRING.verify(found.signed)) == draft.body
    for name in ("publisher", "via", "id", "node", "service", "tag", "snapshot"):
        assert getattr(found, name) == getattr(draft, name)
    assert abs(found.issued - draft.issued) <= 0.001
    assert (found.expires is None) == (draft.expires is None)
    assert abs((found.expires or 0) - (draft.expires or 0)) <= 0.001


def test_a_large_signed_body_lies_elsewhere() -> None:
    """Its digest is signed."""
    draft = Draft(b"x" * (LARGEST_BODY + 1), issued=1.0, publisher="ops")
    made = draft.numbered("prod", "deploy", 1, 0, signer=SIGNER)
    assert (made.body, made.sha256, made.size, made.is_sealed) == (
        None,
        draft.sha256,
        LARGEST_BODY + 1,
        False,
    )


def test_the_largest_sealed_message_is_read() -> None:
    """And a larger one is refused before anything is written, with a way out."""
    draft = Draft(b"x" * LARGEST_BODY, issued=1.0, publisher="ops", sealed=True)
    assert draft.numbered("prod", "deploy", 1, 0, signer=SIGNER).size == LARGEST_BODY
    with pytest.raises(BadDocument, match="publish a reference"):
        replace(draft, body=b"x" * (LARGEST_BODY + 1)).numbered("prod", "deploy", 1, 0, signer=SIGNER)


def test_nothing_is_sealed_without_the_keys() -> None:
    """A payload that was meant to be sealed is never written readably."""
    draft = Draft(b"x", issued=1.0, publisher="ops", sealed=True)
    with pytest.raises(BadDocument, match=r"trust\.signing_key"):
        draft.numbered("prod", "deploy", 1, 0)
    with pytest.raises(NoFleetKey):
        draft.numbered("prod", "deploy", 1, 0, signer=Signer(OPS))


def test_an_event_is_not_signed() -> None:
    """Who signs it did not hear it."""
    with pytest.raises(BadDocument):
        Draft(b"x", issued=1.0, publisher="lb1", via="event").numbered("prod", "deploy", 1, 0, signer=SIGNER)


def test_a_signed_message_has_one_spelling() -> None:
    """Any other is junk, not a newer format."""
    raw = written()
    assert parse_envelope(raw).signed
    for other in (raw.replace(b",", b", ", 1), json.dumps(json.loads(raw)).encode(), changed(format=2)):
        with pytest.raises(BadDocument):
            parse_envelope(other)


def test_a_signed_message_of_a_newer_kind_waits() -> None:
    """As one of format 1 does."""
    with pytest.raises(UnknownFormat):
        parse_envelope(SIGNER.write(PLACE, {**CLAIMS, "kind": "rename"}, b""))


def test_a_message_that_is_published_again_stays_sealed() -> None:
    """Whoever publishes it again need not think of that."""
    sealed = parse_envelope(written(sealed=True))
    assert sealed.again(b"x", issued=1.0, publisher="ops").sealed
    assert not parse_envelope(written()).again(b"x", issued=1.0, publisher="ops").sealed


def test_a_sealed_payload_is_nowhere_in_what_is_written() -> None:
    """Nor is a signed message shown with its payload."""
    draft = Draft(b"secret payload", issued=1.0, publisher="ops", sealed=True)
    made = draft.numbered("prod", "deploy", 1, 0, signer=SIGNER)
    assert base64.b64encode(b"secret payload").rstrip(b"=") not in made.raw
    assert "secret" not in repr(made)


def test_a_release_without_signatures_waits_for_a_signed_message() -> None:
    """It knows format 1 alone, and takes the message for no junk, which it would pass over."""
    with pytest.raises(UnknownFormat, match="upgrade agentd"):
        read_document(written(), largest=LARGEST_ENVELOPE, formats=range(1, 2), what="the message")

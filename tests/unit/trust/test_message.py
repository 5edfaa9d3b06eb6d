"""A signed message as it lies in Consul: one spelling, one place, one signer."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import BadDocument, FleetError, Untrusted
from agentd.trust.claims import LARGEST_BODY, render_claims
from agentd.trust.encoding import decode64, encode64
from agentd.trust.keyring import Signer
from agentd.trust.message import LARGEST, Place, parse_message
from agentd.trust.paseto import sign
from tests.unit.trust.samples import CLAIMS, FLEET, KEYRING, OPS, OTHER, PLACE, body_of, moved, written

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
places = st.builds(
    Place, fleet=names, name=names, num=st.integers(2, 9 * 10**15 - 1), prev=st.just(0) | st.integers(0, 1)
)


def with_token(token: str) -> bytes:
    """A message of the sample's place, with that token."""
    raw = written()
    return raw.replace(parse(raw)["token"].encode(), token.encode())


def parse(raw: bytes) -> Any:  # noqa: ANN401 (any JSON)
    """As JSON."""
    return json.loads(raw)


def signed(payload: bytes, footer: bytes = f'{{"kid":"{OPS.kid}"}}'.encode()) -> bytes:
    """A message with this payload, rightly signed."""
    return with_token(sign(payload, OPS, footer, PLACE.assertion))


@given(place=places, body=st.binary(max_size=200), sealed=st.booleans())
def test_what_is_written_is_read(place: Place, body: bytes, *, sealed: bool) -> None:
    """With every part where it was."""
    raw = Signer(OPS, FLEET).write(place, CLAIMS, body, sealed=sealed)
    found = parse_message(raw)
    assert (found.place, found.kid, found.fleet_kid) == (place, OPS.kid, FLEET.kid if sealed else None)
    assert CLAIMS.items() <= found.claims.items()


@pytest.mark.parametrize("sealed", [False, True])
def test_no_bit_can_be_flipped(*, sealed: bool) -> None:
    """Each of them, one after the other."""
    raw = written(sealed=sealed)
    for at in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(FleetError):
            body_of(bytes(changed))
    assert body_of(raw) == b"release-17"


def test_nothing_can_be_cut_off_or_added() -> None:
    """At either end."""
    raw = written()
    cut = [raw[:at] for at in range(len(raw))] + [raw[at:] for at in range(1, len(raw))]
    for changed in (*cut, *(raw + bytes([one]) for one in range(256)), b" " + raw, raw + raw):
        with pytest.raises(BadDocument):
            parse_message(changed)


@pytest.mark.parametrize(
    "place",
    [
        PLACE._replace(fleet="staging"), PLACE._replace(name="deploy-2"), PLACE._replace(num=PLACE.num + 1),
        PLACE._replace(prev=0), PLACE._replace(fleet="production/deploy"),
    ],
)  # fmt: skip
def test_a_message_is_valid_in_its_place_only(place: Place) -> None:
    """Not for another fleet, name or number, nor after another message."""
    with pytest.raises(Untrusted) as caught:
        KEYRING.verify(moved(written(), place))
    assert caught.value.reason == "signature"


def test_parts_of_two_messages_do_not_fit() -> None:
    """Neither the footer nor the claims of one, under the signature of the other."""
    one, other = parse_message(written(b"1")), parse_message(written(b"2"))
    for mixed in (
        one.token._replace(payload=other.token.payload),
        one.token._replace(footer=b"{}"),
        one.token._replace(signature=other.token.signature),
    ):
        with pytest.raises(Untrusted):
            KEYRING.verify(one._replace(token=mixed))


def _swapped(text: str) -> str:
    return text.replace('"fleet":"production","name":"deploy"', '"name":"deploy","fleet":"production"')


@pytest.mark.parametrize(
    "change",
    [
        _swapped,
        lambda text: text.replace('"num"', '"num": '),
        lambda text: text.replace('"num":', '"num":0'),
        lambda text: text.replace('"num":1790000000001', '"num":1790000000001.0'),
        lambda text: text.replace('"format":2', '"format":2,"format":2'),
        lambda text: text.replace('"prev"', '"more":1,"prev"'),
        lambda text: text.replace("production", "\\u0070roduction"),
        lambda text: text.replace('"num":1790000000001', f'"num":{9 * 10**15}'),
        lambda text: text.replace('"prev":1790000000000', '"prev":1790000000001'),
        lambda text: text.replace('"format":2', '"format":1'),
    ],
)
def test_another_spelling_of_the_message_is_refused(change: Callable[[str], str]) -> None:
    """Another order, white space, a number written differently, a field twice or more."""
    raw = written()
    changed = change(raw.decode()).encode()
    assert changed != raw
    with pytest.raises(BadDocument):
        parse_message(changed)


@pytest.mark.parametrize(
    "footer",
    [
        "", "{}", "[]", '{"kid":"KID","kid":"KID"}', '{"kid": "KID"}', f'{{"kid":"{FLEET.kid}"}}',
        '{"kid":"KID","x":1}', '{"kid":"KID="}', '{"kid":1}', '{"kid":null}', "KID", "é", '{"kid":"KID"}\n',
    ],
)  # fmt: skip
def test_a_footer_names_one_key_and_nothing_else(footer: str) -> None:
    """Rightly signed as it may be."""
    raw = signed(render_claims({**CLAIMS, "body": ""}), footer.replace("KID", OPS.kid).encode())
    with pytest.raises(BadDocument):
        parse_message(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1}, {"issued": 1.5}, {"issued": 1.0}, {"issued": -1}, {"issued": True}, {"issued": "1"},
        {"issued": 10**30}, {"issued": 10**14 + 1}, {"first": 0}, {"first": PLACE.num}, {"first": 9 * 10**15},
        {"kind": ""}, {"kind": None}, {"kind": ["payload"]}, {"via": "event"}, {"via": {}},
        {"id": ""}, {"id": "x" * 65}, {"id": "\u0000"}, {"id": "\ud800"}, {"publisher": "a\nb"}, {"node": ""},
        {"snapshot": False}, {"snapshot": 1}, {"body": "YQ=="}, {"body": "YR"}, {"body": None}, {"body": 1},
        {"expires": None}, {"sha256": "0" * 64}, {"sealed": "A" * 80, "key": FLEET.kid}, {"key": FLEET.kid},
        {"body": encode64(bytes(LARGEST_BODY + 1))},
    ],
)  # fmt: skip
def test_claims_that_could_be_understood_in_two_ways_are_refused(change: dict[str, Any]) -> None:
    """Although they are rightly signed: a field that is unknown, or of another type, or twice the payload."""
    raw = signed(json.dumps({**CLAIMS, "body": "YQ", **change}).encode())
    with pytest.raises(BadDocument):
        parse_message(raw)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"[]", b"null", b"1", b"\xff", b'"text"', b"{", b"{}", b"[" * 20_000, b'{"a":' * 5_000,
        b'{"kind":{},"kind":"payload",' + render_claims({**CLAIMS, "body": "YQ"})[1:],
        render_claims({**CLAIMS, "body": "YQ"})[:-1] + b',"body":"YQ"}',
        render_claims({**CLAIMS, "body": "YQ"})[:-1] + b',"expires":NaN}',
        render_claims({**CLAIMS, "body": "YQ"})[:-1] + b',"expires":1e3}',
        render_claims({**CLAIMS, "body": "YQ"})[:-1] + b',"expires":' + b"9" * 5_000 + b"}",
        render_claims({**CLAIMS, "body": "YQ"}) + b"{}",
    ],
)  # fmt: skip
def test_what_is_signed_is_one_flat_object(payload: bytes) -> None:
    """Nothing nested, nothing twice, no number that is none."""
    with pytest.raises(BadDocument):
        parse_message(signed(payload))


def test_claims_may_be_spelt_otherwise() -> None:
    """What another library writes is what is signed: white space, another order, UTF-8."""
    spelt = json.dumps({"body": "YQ", **CLAIMS, "publisher": "søren@host"}, indent=1, ensure_ascii=False)
    assert body_of(signed(spelt.encode())) == b"a"


def test_the_largest_payload_fits() -> None:
    """Sealed as well; one byte more does not."""
    body = random.Random(1).randbytes(LARGEST_BODY)
    for sealed in (False, True):
        raw = written(body, sealed=sealed)
        assert len(raw) <= LARGEST
        assert body_of(raw) == body
        with pytest.raises(BadDocument):
            written(body + b"x", sealed=sealed)


def test_what_no_reader_would_take_is_not_written() -> None:
    """A claim that is wrong, a name that cannot be one, a message that is too large."""
    for claims, place in (
        ({**CLAIMS, "unknown": 1}, PLACE),
        (CLAIMS, PLACE._replace(name="a/b")),
        (CLAIMS, PLACE._replace(num=0)),
        ({**CLAIMS, "node": "é" * 512, "service": "é" * 512, "tag": "é" * 512}, PLACE),
    ):
        with pytest.raises(BadDocument):
            Signer(OPS, FLEET).write(place, claims, bytes(LARGEST_BODY))


def test_a_message_is_too_large_before_it_is_looked_at() -> None:
    """Neither decoded nor verified."""
    with pytest.raises(BadDocument, match="at most"):
        parse_message(written() + b" " * LARGEST)


def mangled(raw: bytes, chance: random.Random) -> bytes:
    """The bytes with some pieces replaced, doubled or left out."""
    made = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        begin = chance.randrange(len(made) + 1)
        end = begin + chance.randrange(40)
        noise = chance.randbytes(chance.randrange(20))
        made[begin:end] = chance.choice([b"", made[begin:end] * 2, noise, b'"', b"{}", b"\\u0000", b"1e9"])
    return bytes(made)


def test_junk_raises_nothing_but_what_is_documented() -> None:
    """10,000 inputs, mangled before or after they were signed; only what was left whole is believed."""
    chance = random.Random(11)
    good = [written(), written(sealed=True), written(key=OTHER)]
    payloads = [parse_message(raw).token.payload for raw in good]
    outcomes: Counter[str] = Counter()
    for _ in range(10_000):
        layer = chance.choice(["raw", "payload", "footer"])
        if layer == "raw":
            raw = mangled(chance.choice(good), chance)
        elif layer == "payload":
            raw = signed(mangled(chance.choice(payloads), chance))
        else:
            raw = signed(chance.choice(payloads), mangled(f'{{"kid":"{OPS.kid}"}}'.encode(), chance)[:120])
        try:
            KEYRING.body(KEYRING.verify(parse_message(raw)))
        except FleetError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes[f"{layer} believed"] += 1
            assert layer == "payload" or raw in good
    assert outcomes.keys() >= {"BadDocument", "Untrusted", "payload believed"}


@given(raw=st.binary(max_size=300))
def test_any_bytes_are_a_message_or_none(raw: bytes) -> None:
    """Of any kind."""
    with pytest.raises(BadDocument):
        parse_message(raw)


@given(payload=st.binary(max_size=300))
def test_any_signed_payload_is_read_or_refused(payload: bytes) -> None:
    """A publisher's key does not make it harmless."""
    try:
        found = parse_message(signed(payload))
    except BadDocument:
        return
    assert decode64(encode64(payload)) == found.token.payload

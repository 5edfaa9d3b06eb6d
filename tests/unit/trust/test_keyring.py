"""Who may send what, and who can read it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentd.errors import BadDocument, BadKey, NoFleetKey, Untrusted
from agentd.trust.encoding import encode64
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.keys import FleetKey, PublicKey, new_fleet_key
from agentd.trust.message import parse_message, write_message
from agentd.trust.seal import seal
from tests.unit.trust.samples import CLAIMS, FLEET, KEYRING, OPS, OTHER, PLACE, body_of, written


def reason(work: Callable[[], object]) -> str:
    """Why it was not believed."""
    with pytest.raises(Untrusted) as caught:
        work()
    return caught.value.reason


def test_a_message_of_a_publisher_that_may_is_believed() -> None:
    """It names the publisher as the configuration does."""
    verified = KEYRING.verify(parse_message(written()))
    assert (verified.publisher, KEYRING.body(verified)) == ("ops", b"release-17")


def test_a_publisher_sends_only_what_it_may() -> None:
    """The name of the message decides."""
    assert reason(lambda: body_of(written(place=PLACE._replace(name="blacklist")))) == "forbidden"


def test_an_unknown_key_is_not_believed() -> None:
    """Nor the key of a publisher that was removed."""
    assert reason(lambda: body_of(written(key=OTHER))) == "unknown"
    assert reason(lambda: body_of(written(), Keyring([]))) == "unknown"


def test_a_message_in_the_name_of_another_key_is_not_believed() -> None:
    """The footer names a publisher that did not sign."""
    message = parse_message(written(key=OTHER))
    assert reason(lambda: KEYRING.verify(message._replace(kid=OPS.kid))) == "signature"


@pytest.mark.parametrize(
    "pattern,yes,no",
    [
        ("deploy", ["deploy"], ["deploy-web", "Deploy", "deplo"]),
        ("deploy-*", ["deploy-web", "deploy-"], ["deploy", "xdeploy-web"]),
        ("*", ["deploy", "x"], []),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_patterns_are_names_or_beginnings(pattern: str, yes: list[str], no: list[str]) -> None:
    """No other character of them is special."""
    publisher = Publisher("ops", (OPS.public,), (pattern,))
    assert [name for name in yes + no if publisher.may_send(name)] == yes


def test_both_keys_are_believed_while_one_is_replaced() -> None:
    """Then the new one alone."""
    both = Keyring([Publisher("ops", (OPS.public, OTHER.public), ("deploy",))])
    assert body_of(written(), both) == body_of(written(key=OTHER), both) == b"release-17"
    new = Keyring([Publisher("ops", (OTHER.public,), ("deploy",))])
    assert reason(lambda: body_of(written(), new)) == "unknown"


def test_two_publishers_with_one_key_are_refused() -> None:
    """It would not be known who sent what."""
    with pytest.raises(BadKey, match="twice"):
        Keyring([Publisher("a", (OPS.public,), ("*",)), Publisher("b", (OPS.public,), ("*",))])


@pytest.mark.parametrize("data", [bytes(32), b"\1" + bytes(31), b"\xff" * 32, b"\2" + bytes(31)])
def test_a_public_key_that_is_none_is_refused(data: bytes) -> None:
    """For some of them anybody can make signatures."""
    with pytest.raises(BadKey, match=r"publishers\.ops"):
        Keyring([Publisher("ops", (PublicKey(data),), ("*",))]).check()


# ---------------------------------------------------------------- sealed


def test_what_is_sealed_is_nowhere_to_be_seen() -> None:
    """Neither as it is nor in base64; and no two messages are alike."""
    raw = written(b"release-17", sealed=True)
    message = parse_message(raw)
    assert b"release-17" not in message.token.payload
    assert encode64(b"release-17").encode() not in raw + message.token.payload
    assert raw != written(b"release-17", sealed=True)


def test_sealed_messages_wait_for_the_fleet_key() -> None:
    """That a key is not here yet is no fault of the message."""
    keyring = Keyring([Publisher("ops", (OPS.public,), ("deploy",))], [new_fleet_key()])
    verified = keyring.verify(parse_message(written(sealed=True)))
    with pytest.raises(NoFleetKey, match=FLEET.kid):
        keyring.body(verified)


def test_each_fleet_key_opens_what_it_sealed() -> None:
    """While the fleet changes from one to the other, in either order."""
    new = new_fleet_key()
    for keys in ([new, FLEET], [FLEET, new]):
        keyring = Keyring([Publisher("ops", (OPS.public,), ("deploy",))], keys)
        assert body_of(written(sealed=True), keyring) == b"release-17"
        assert body_of(Signer(OPS, new).write(PLACE, CLAIMS, b"x", sealed=True), keyring) == b"x"


def test_what_was_sealed_for_another_message_does_not_open() -> None:
    """Another place, another publisher, another key in its name: although this one is rightly signed."""
    other_key = FleetKey(bytes(32))
    for key, place, publisher in (
        (FLEET, PLACE._replace(num=PLACE.num + 1), OPS),
        (FLEET, PLACE._replace(name="blacklist"), OPS),
        (FLEET, PLACE._replace(fleet="staging"), OPS),
        (FLEET, PLACE._replace(prev=0), OPS),
        (FLEET, PLACE, OTHER),
        (other_key, PLACE, OPS),
    ):
        stolen = encode64(seal(b"secret", key, place.assertion, publisher.kid))
        raw = write_message(PLACE, {**CLAIMS, "sealed": stolen, "key": FLEET.kid}, OPS)
        assert reason(lambda raw=raw: body_of(raw)) == "sealed"  # type: ignore[misc] # bound at once


def test_nothing_can_be_sealed_without_a_key() -> None:
    """It is not written in the clear instead."""
    with pytest.raises(NoFleetKey, match=r"trust\.fleet_keys"):
        Signer(OPS).write(PLACE, CLAIMS, b"secret", sealed=True)


def test_a_payload_elsewhere_is_named_by_its_digest() -> None:
    """It cannot be sealed."""
    claims = {**CLAIMS, "sha256": "0" * 64, "size": 40_000}
    assert body_of(Signer(OPS).write(PLACE, claims, None)) is None
    with pytest.raises(BadDocument):
        Signer(OPS, FLEET).write(PLACE, claims, None, sealed=True)


# ---------------------------------------------------------------- signed again


@pytest.mark.parametrize("sealed", [False, True])
def test_a_message_is_signed_again_with_the_keys_of_today(*, sealed: bool) -> None:
    """It says the same in its new place; what was sealed is sealed with the new key."""
    new, place = new_fleet_key(), PLACE._replace(num=PLACE.num + 1, prev=PLACE.num)
    ours = Publisher("ops", (OPS.public, OTHER.public), ("deploy",))
    signer, keyring = Signer(OTHER, new), Keyring([ours], [new, FLEET])
    old = keyring.verify(parse_message(written(sealed=sealed)))
    again = parse_message(signer.resign(old, keyring, place))
    assert (again.place, again.kid, again.fleet_kid) == (place, OTHER.kid, new.kid if sealed else None)
    assert CLAIMS.items() <= again.claims.items()
    # Without the old keys.
    assert body_of(signer.resign(old, keyring, place), Keyring([ours], [new])) == b"release-17"


def test_a_reference_to_a_payload_is_signed_again_as_it_is() -> None:
    """The payload itself stays where it is."""
    claims = {**CLAIMS, "sha256": "0" * 64, "size": 40_000}
    old = KEYRING.verify(parse_message(Signer(OPS).write(PLACE, claims, None)))
    again = parse_message(Signer(OTHER).resign(old, KEYRING, PLACE._replace(num=PLACE.num + 1)))
    assert again.claims == {**claims, "first": PLACE.num}


def test_a_message_keeps_its_first_number() -> None:
    """However often it is signed again: a node that has it does nothing twice."""
    keyring = Keyring([Publisher("ops", (OPS.public, OTHER.public), ("deploy",))])
    old = keyring.verify(parse_message(written()))
    once = Signer(OTHER).resign(old, keyring, PLACE._replace(num=PLACE.num + 1))
    twice = Signer(OPS).resign(
        keyring.verify(parse_message(once)), keyring, PLACE._replace(num=PLACE.num + 2)
    )
    assert [parse_message(raw).claims["first"] for raw in (once, twice)] == [PLACE.num, PLACE.num]


def test_what_cannot_be_opened_is_not_signed_again() -> None:
    """The old fleet key is needed until all is sealed with the new one."""
    new = new_fleet_key()
    keyring = Keyring([Publisher("ops", (OPS.public,), ("deploy",))], [new])
    old = keyring.verify(parse_message(written(sealed=True)))
    with pytest.raises(NoFleetKey, match=FLEET.kid):
        Signer(OPS, new).resign(old, keyring, PLACE)

"""The keys, as they are written, and their IDs."""

from __future__ import annotations

import pytest

from agentd.trust.encoding import encode64
from agentd.trust.keys import (
    FLEET_ID,
    PUBLISHER_ID,
    FleetKey,
    PublicKey,
    is_kid,
    new_fleet_key,
    new_secret_key,
    parse_public_key,
    parse_secret,
)
from tests.unit.trust.samples import FLEET, OPS, OTHER

PASERK = {  # https://github.com/paseto-standard/test-vectors/blob/master/PASERK/k4.pid.json
    "00" * 32: "k4.pid.S_XQmeEwHbbvRmiyfXfHYpLGjXGzjTRSDoT1YtTakWFE",
    bytes(range(0x70, 0x90)).hex(): "k4.pid.9ShR3xc8-qVJ_di0tc9nx0IDIqbatdeM2mqLFBJsKRHs",
    (bytes(range(0x70, 0x8F)) + b"\x90").hex(): "k4.pid.-nyvbaTz8U6TQz7OZWW-iB3va31iAxIpUgzUcVQVmW9A",
}


@pytest.mark.parametrize("key,kid", PASERK.items())
def test_the_id_of_a_publisher_is_that_of_paserk(key: str, kid: str) -> None:
    """So that other tools compute the same."""
    assert PublicKey(bytes.fromhex(key)).kid == kid
    assert is_kid(kid, PUBLISHER_ID)


def test_a_written_key_is_read() -> None:
    """Each kind, and what is made anew is never the same twice."""
    secret, fleet = new_secret_key(), new_fleet_key()
    assert parse_secret(secret.text) == secret
    assert parse_public_key(secret.public.text) == secret.public
    assert parse_secret(fleet.text) == fleet
    assert len({secret.kid, new_secret_key().kid, fleet.kid, new_fleet_key().kid}) == 4


def test_no_secret_is_shown() -> None:
    """Neither by its representation, nor by its text, as it gets into logs."""
    for key, secret in ((OPS, OPS.seed), (FLEET, FLEET.data)):
        for shown in (repr(key), str(key), f"{key}"):
            assert encode64(secret) not in shown
            assert repr(secret) not in shown
            assert secret.hex() not in shown


@pytest.mark.parametrize("text", [OPS.text, FLEET.text])
def test_a_secret_key_in_place_of_a_public_one_is_not_quoted(text: str) -> None:
    """Only what to do is said: whoever read the file has it."""
    with pytest.raises(ValueError, match="generate a new one") as caught:
        parse_public_key(text)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k4.public.",
        OPS.public.text[:-1],
        OPS.public.text + "A",
        OPS.public.text.replace("k4", "k3"),
        "k4.public.é",
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    """Another length or version."""
    with pytest.raises(ValueError, match="is not a public key"):
        parse_public_key(text)


@pytest.mark.parametrize("text", ["", "k4.secret.AAAA", OPS.text + "\n", FLEET.text[:-1], "x" * 500])
def test_what_is_no_secret_key_is_refused_unquoted(text: str) -> None:
    """It may be most of one."""
    with pytest.raises(ValueError, match="is not a") as caught:
        parse_secret(text)
    assert not text or text not in str(caught.value)


def test_a_pair_of_two_keys_is_refused() -> None:
    """Two signatures with such a one would tell the secret."""
    with pytest.raises(ValueError, match="belongs to another one"):
        parse_secret("k4.secret." + encode64(OPS.seed + OTHER.public.data))


@pytest.mark.parametrize(
    "text", ["", "k4.pid.", PASERK["00" * 32] + "A", PASERK["00" * 32][:-1], "k4.pid." + "é" * 44]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    """An ID has one length, and one alphabet."""
    assert not is_kid(text, PUBLISHER_ID)


def test_an_id_tells_the_kind_of_its_key() -> None:
    """A fleet key's is never taken for a publisher's."""
    assert is_kid(FLEET.kid, FLEET_ID)
    assert not is_kid(FLEET.kid, PUBLISHER_ID)
    assert FleetKey(OPS.seed).kid != FLEET.kid

"""The address of the status endpoints: loopback, or with a certificate and a token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.options import StatusOptions
from agentd.values import parse_listening


@pytest.mark.parametrize(
    "address,expected",
    [
        ("127.0.0.1:9521", ("127.0.0.1", 9521)),
        ("127.1.2.3:0", ("127.1.2.3", 0)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:9521", ("::1", 9521)),
    ],
)
def test_a_loopback_address_is_split(address: str, expected: tuple[str, int]) -> None:
    """Address and port come apart; localhost is 127.0.0.1."""
    assert parse_listening(address) == expected


@pytest.mark.parametrize(
    "address,reason",
    [
        ("[127.0.0.1]:9521", "an address and a port"),
        ("::1:9521", "an address and a port"),
        ("example.org:9521", "an address and a port"),
        (":9521", "an address and a port"),
        ("9521", "an address and a port"),
        ("[::1%lo]:9521", "an address and a port"),
        ("127.0.0.1:", "a port from 0"),
        ("127.0.0.1:65536", "a port from 0"),
        ("127.0.0.1:-1", "a port from 0"),
        ("127.0.0.1:٣", "a port from 0"),
        ("127.0.0.1:" + "9" * 5000, "a port from 0"),
        ("0.0.0.0:9521", "is not a loopback address"),
        ("10.0.0.1:9521", "is not a loopback address"),
        ("[::]:9521", "is not a loopback address"),
        ("[::ffff:127.0.0.1]:9521", "is not a loopback address"),
    ],
)
def test_anything_else_is_refused_with_the_reason(address: str, reason: str) -> None:
    """Without a certificate and a token, nobody outside may reach the endpoints."""
    with pytest.raises(ValidationError, match=reason):
        StatusOptions(address=address)


@pytest.mark.parametrize("lacking", ["cert_file", "token_file"])
def test_a_network_needs_both_certificate_and_token(lacking: str) -> None:
    """A token in the clear would be read, and a certificate alone lets everybody in."""
    files = {"cert_file": "/cert.pem", "token_file": "/token"}
    assert StatusOptions.model_validate({"address": "0.0.0.0:9521", **files}).address == "0.0.0.0:9521"

    with pytest.raises(ValidationError, match="needs cert_file and token_file"):
        StatusOptions.model_validate({"address": "0.0.0.0:9521", **files, lacking: None})


def test_a_key_is_that_of_a_certificate() -> None:
    """Alone it would be ignored."""
    with pytest.raises(ValidationError, match="key_file needs cert_file"):
        StatusOptions.model_validate({"key_file": "/key.pem"})


def test_null_switches_the_endpoints_off() -> None:
    """There may be none."""
    assert StatusOptions(address=None).address is None


@given(st.ip_addresses(v=4).filter(lambda address: not address.is_loopback), st.integers(0, 65535))
def test_no_address_of_a_network_is_accepted(address: object, port: int) -> None:
    """Of all IPv4 addresses only 127.0.0.0/8 passes."""
    with pytest.raises(ValidationError, match="is not a loopback address"):
        StatusOptions(address=f"{address}:{port}")

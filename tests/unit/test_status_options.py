"""The address of the status endpoints: loopback or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.options import StatusOptions
from agentd.values import parse_loopback


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
    assert parse_loopback(address) == expected


@pytest.mark.parametrize(
    "address,reason",
    [
        ("0.0.0.0:9521", "a loopback address"),
        ("10.0.0.1:9521", "a loopback address"),
        ("[::]:9521", "a loopback address"),
        ("[127.0.0.1]:9521", "a loopback address"),
        ("::1:9521", "a loopback address"),
        ("example.org:9521", "an address and a port"),
        (":9521", "an address and a port"),
        ("9521", "an address and a port"),
        ("127.0.0.1:", "a port from 0"),
        ("127.0.0.1:65536", "a port from 0"),
        ("127.0.0.1:-1", "a port from 0"),
        ("127.0.0.1:٣", "a port from 0"),
        ("127.0.0.1:" + "9" * 5000, "a port from 0"),
        ("[::1%lo]:9521", "must be a loopback address"),
    ],
)
def test_anything_else_is_refused_with_the_reason(address: str, reason: str) -> None:
    """The endpoints have no authentication, so they must not be reachable from outside."""
    with pytest.raises(ValidationError, match=reason):
        StatusOptions(address=address)


def test_null_switches_the_endpoints_off() -> None:
    """There may be none."""
    assert StatusOptions(address=None).address is None


@given(st.ip_addresses(v=4).filter(lambda address: not address.is_loopback), st.integers(0, 65535))
def test_no_address_of_a_network_is_accepted(address: object, port: int) -> None:
    """Of all IPv4 addresses only 127.0.0.0/8 passes."""
    with pytest.raises(ValueError, match="a loopback address"):
        parse_loopback(f"{address}:{port}")

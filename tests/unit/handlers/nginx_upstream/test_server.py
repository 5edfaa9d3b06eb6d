"""A server's text and address."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nginx_upstream.server import Server, in_order, join_address, order, parse_address

servers = st.builds(
    Server,
    st.tuples(st.ip_addresses(), st.integers(1, 65535)).map(
        lambda pair: f"[{pair[0]}]:{pair[1]}" if pair[0].version == 6 else f"{pair[0]}:{pair[1]}"
    ),
    weight=st.integers(1, 256),
    max_fails=st.integers(0, 9),
    fail_timeout=st.integers(1, 99),
    max_conns=st.integers(0, 99),
    backup=st.booleans(),
    down=st.booleans(),
)


@given(servers)
def test_the_text_reads_back(server: Server) -> None:
    """What the store holds is what was put into it."""
    assert Server.parse(server.text()) == server


@pytest.mark.parametrize(
    "text", ["10.0.0.1:80 colour=1", "10.0.0.1:80 weight=x", "10.0.0.1:80 weight=1 backup=x"]
)
def test_another_text_does_not_read(text: str) -> None:
    """A store written by somebody else is not guessed at."""
    with pytest.raises(ValueError, match=r"server|invalid literal"):
        Server.parse(text)


@given(st.lists(servers, unique_by=lambda server: server.address))
def test_sorting_is_by_number(found: list[Server]) -> None:
    """However they come."""
    assert in_order(found) == in_order(reversed(found))
    assert [order(one.address) for one in in_order(found)] == sorted(order(one.address) for one in found)


@pytest.mark.parametrize(
    "text, spelling",
    [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[2001:db8::1]:8080", "[2001:db8::1]:8080"),
        ("[2001:DB8:0::1]:8080", "[2001:db8::1]:8080"),
        ("10.0.0.1:0080", "10.0.0.1:80"),
    ],
)
def test_an_address_is_spelled_as_nginx_does(text: str, spelling: str) -> None:
    """So that it is found in a list."""
    assert parse_address(text) == spelling


@pytest.mark.parametrize("port", [True, "80", 80.0, None, 0, 65536])
def test_only_a_number_is_a_port(port: Any) -> None:  # noqa: ANN401 (whatever JSON has)
    """Of JSON's types."""
    with pytest.raises(ValueError, match="is not a port"):
        join_address("10.0.0.1", port)


@pytest.mark.parametrize(
    "text",
    [
        "web1:80",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:080000",
        "10.0.0.1:80000000",
        "10.0.0.1:٣",
        "2001:db8::1:80",
        "[10.0.0.1]:80",
        "[10.0.0.1:80",
        "[fe80::1%eth0]:80",
        "10.0.0.1:80&down=",
        "",
    ],
)
def test_what_is_not_an_address_and_a_port_is_refused(text: str) -> None:
    """A host name would block a worker of nginx; more than an address would be another request."""
    with pytest.raises(ValueError, match="an IP address and a port are needed"):
        parse_address(text)

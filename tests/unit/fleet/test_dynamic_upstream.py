"""The dynamic-upstream interface: what may be asked, and what its answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import BalancerError
from agentd.fleet.dynamic_upstream import (
    Balancer,
    Peer,
    Wish,
    _peers,
    check_path,
    check_server,
    check_upstream,
)


def test_verbose_list_is_read() -> None:
    """Weights, parameters, and who is down."""
    listed = (
        b"server 10.0.0.1:80 weight=1 max_fails=1 fail_timeout=10;\n"
        b"server [2001:db8::1]:80 weight=5 max_fails=0 fail_timeout=10s backup down;\n"
    )
    assert _peers(listed) == (
        Peer("10.0.0.1:80", max_fails=1, fail_timeout=10),
        Peer("[2001:db8::1]:80", down=True, weight=5, max_fails=0, fail_timeout=10),
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"server 10.0.0.1:80;\nserver 10.0.0.2:8",
        b"server 10.0.0.1:80 weight=x;",
        b"server 10.0.0.1:80 weight=99999999999;",
        b"<html>hello</html>",
        b"\xff\xfe;",
        b"server ;",
    ],
)
def test_anything_else_is_an_error(body: bytes) -> None:
    """One line that is not understood makes all of it doubtful."""
    with pytest.raises(BalancerError):
        _peers(body)


def test_quoted_answer_is_short_and_one_line() -> None:
    """A balancer cannot fill the operator's screen."""
    with pytest.raises(BalancerError) as raised:
        _peers(b"<html>\t" + b"x" * 1000)
    assert len(str(raised.value)) < 200


@given(st.binary(max_size=200))
def test_no_answer_raises_anything_else(body: bytes) -> None:
    """Only BalancerError, whatever comes."""
    try:
        found = _peers(body)
    except BalancerError:
        return
    assert found


@pytest.mark.parametrize(
    "given_,spelled",
    [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[2001:DB8:0::1]:8080", "[2001:db8::1]:8080"),
        ("10.0.0.1:0080", "10.0.0.1:80"),
    ],
)
def test_server_is_spelled_as_nginx_does(given_: str, spelled: str) -> None:
    """So that it is found in the list."""
    assert check_server(given_) == spelled


@pytest.mark.parametrize(
    "text",
    [
        "web1:80",
        "10.0.0.1",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:80000000",
        "10.0.0.1:٣",
        "10.0.0.1:",
        "2001:db8::1:80",
        "[10.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "10.0.0.1:80&down=",
        "",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """A host name would block the worker of nginx; more than an address would be another request."""
    with pytest.raises(ValueError, match="an IP address and a port"):
        check_server(text)


@pytest.mark.parametrize("text", ["", "a&b", "a b", "a=b", "a%20", "a\n", "x" * 129])
def test_upstream_is_a_plain_name(text: str) -> None:
    """It is sent as it stands."""
    with pytest.raises(ValueError, match="name of an upstream"):
        check_upstream(text)


@pytest.mark.parametrize("text", ["", "dynamic", "/a?b", "/a b", "/a\r\n", "/" + "x" * 201])
def test_path_is_a_plain_path(text: str) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match="a path such as"):
        check_path(text)


def test_good_names_are_returned() -> None:
    """As they are."""
    assert (check_upstream("app-v1.2_x"), check_path("/a/b-c")) == ("app-v1.2_x", "/a/b-c")


@pytest.mark.parametrize(
    "wish,query",
    [
        (Wish(down=True), "down="),
        (Wish(down=False), "up="),
        (Wish(weight=3), "weight=3"),
        (Wish(down=True, weight=3), "weight=3&down="),
    ],
)
def test_wish_as_the_interface_takes_it(wish: Wish, query: str) -> None:
    """With the `=` that it needs."""
    assert wish.query == query


@given(
    st.builds(Peer, st.just("a"), down=st.booleans(), weight=st.integers(1, 5)),
    st.builds(Wish, st.none() | st.booleans(), st.none() | st.integers(1, 5)),
)
def test_undoing_leads_to_what_was_found(before: Peer, wish: Wish) -> None:
    """And touches nothing that the wish did not."""
    back = wish.as_found(before)
    assert back.met(before)
    assert ((back.down is None), (back.weight is None)) == ((wish.down is None), (wish.weight is None))


def test_balancer_is_named_with_its_address() -> None:
    """As an operator would type it."""
    assert str(Balancer("lb1", "10.0.0.1", 81)) == "lb1 (10.0.0.1:81)"
    assert str(Balancer("lb1", "2001:db8::1", 81)) == "lb1 ([2001:db8::1]:81)"

"""Instances become servers: what is let through, and what never reaches a configuration."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import Instance
from agentd.testing import instance, service
from handlers.nginx_upstream.servers import Rules, Server, in_order, order, parse_address, servers_of

LINE = re.compile(
    r"([0-9.]+|\[[0-9a-f:]+\]):[0-9]+( weight=\d+)?( max_fails=\d+)?( fail_timeout=\d+s)?( max_conns=\d+)?"
    r"( backup)?"
)


def made(*raw: dict[str, Any], rules: Rules | None = None) -> tuple[list[str], list[str]]:
    """The servers as text, and the reasons of the refusals."""
    reasons: list[str] = []

    def refuse(_: Instance, reason: str) -> None:
        reasons.append(reason)

    servers = servers_of(service("web", raw).instances, rules or Rules(), refuse)
    return [server.text() for server in servers], reasons


def test_instances_become_servers_in_the_order_of_their_addresses() -> None:
    """By number, IPv4 first: 10 comes after 9, and IPv6 stands in brackets."""
    raw = [instance("::1", 80), instance("10.0.0.10", 80), instance("10.0.0.9", 81), instance("10.0.0.9", 9)]

    assert made(*raw)[0] == ["10.0.0.9:9", "10.0.0.9:81", "10.0.0.10:80", "[::1]:80"]


def test_the_order_does_not_depend_on_that_of_the_answer() -> None:
    """Nothing changes when nothing changed."""
    raw = [instance(f"10.0.0.{n}", 80) for n in range(1, 20)]

    assert made(*raw) == made(*reversed(raw))


def test_weights_are_consuls() -> None:
    """Of the status that the instance has, and no more than the most."""
    raw = [
        instance("10.0.0.1", 80, Weights={"Passing": 5, "Warning": 2}),
        instance("10.0.0.2", 80, Weights={"Passing": 5, "Warning": 2}, status="warning"),
        instance("10.0.0.3", 80, Weights={"Passing": 65535, "Warning": 1}),
        instance("10.0.0.4", 80, Weights={"Passing": 0, "Warning": 0}),
    ]

    assert made(*raw)[0] == [
        "10.0.0.1:80 weight=5",
        "10.0.0.2:80 weight=2",
        "10.0.0.3:80 weight=256",
        "10.0.0.4:80",
    ]


@pytest.mark.parametrize("status", ["critical", "maintenance", "invented"])
def test_unfit_instances_are_left_out(status: str) -> None:
    """Even where the query asks for more than those that pass."""
    assert made(instance("10.0.0.1", 80, status=status)) == ([], [])


def test_an_address_counts_once() -> None:
    """Two registrations of one address are one server."""
    assert made(instance("10.0.0.1", 80, ID="a"), instance("10.0.0.1", 80, ID="b"))[0] == ["10.0.0.1:80"]


@pytest.mark.parametrize(
    "address",
    [
        "web.example",
        "unix:/run/x.sock",
        "10.0.0.1;",
        "10.0.0.1:80 backup; include /etc/passwd",
        "10.0.0.01",
        "0.0.0.0",  # noqa: S104 (it is refused)
        "255.255.255.255",
        "224.0.0.1",
        "169.254.169.254",
        "::",
        "fe80::1%eth0",
        "fe80::1",
        "::ffff:10.0.0.1",
        "10.0.0.1\n",
    ],
)
def test_what_is_no_servers_address_is_refused(address: str) -> None:
    """Names can block nginx, and anything else is an attack or a mistake."""
    servers, reasons = made(instance(address, 80), instance("10.0.0.1", 80))

    assert servers == ["10.0.0.1:80"]
    assert len(reasons) == 1


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    """Consul lets a service have port 0."""
    assert made(instance("10.0.0.1", port))[0] == []


def test_servers_outside_the_networks_are_refused() -> None:
    """Where the operator names networks nobody can register the way out of them."""
    rules = Rules(networks=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")))
    raw = [
        instance("10.1.2.3", 80),
        instance("11.1.2.3", 80),
        instance("2001:db8::1", 80),
        instance("::1", 80),
    ]

    servers, reasons = made(*raw, rules=rules)

    assert servers == ["10.1.2.3:80", "[2001:db8::1]:80"]
    assert len(reasons) == 2


# ---------------------------------------------------------------- parameters


def test_tags_and_meta_set_parameters() -> None:
    """Meta wins over a tag, and other tags and meta are nobody's business."""
    raw = instance(
        "10.0.0.1",
        80,
        Tags=["backup", "max_fails=3", "fail_timeout=5s", "production", "weight=9"],
        Meta={"max_fails": "4", "max_conns": "100", "version": "1.2;}"},
    )

    assert made(raw) == (["10.0.0.1:80 max_fails=4 fail_timeout=5s max_conns=100 backup"], [])


@pytest.mark.parametrize(
    "tag",
    [
        "backup=yes",
        "max_fails=-1",
        "max_fails=1001",
        "max_fails=٣",
        "max_fails=1; down",
        "fail_timeout=0",
        "fail_timeout=1h",
        "fail_timeout=99999999999999999999",
        "max_conns=1e3",
        "max_conns= 5",
    ],
)
def test_a_bad_parameter_is_left_out_and_told(tag: str) -> None:
    """The server is still one, with the default."""
    servers, reasons = made(instance("10.0.0.1", 80, Tags=[tag]))

    assert servers == ["10.0.0.1:80"]
    assert len(reasons) == 1


def test_only_the_parameters_that_the_operator_allows_are_read() -> None:
    """Others keep the operator's own values."""
    rules = Rules(Server("", max_fails=2), parameters=frozenset(("backup",)))

    assert made(instance("10.0.0.1", 80, Tags=["backup", "max_fails=9"]), rules=rules) == (
        ["10.0.0.1:80 max_fails=2 backup"],
        [],
    )


@given(
    address=st.one_of(st.text(max_size=40), st.ip_addresses().map(str)),
    port=st.integers(-5, 70000),
    tags=st.lists(st.one_of(st.text(max_size=30), st.sampled_from(["backup", "max_fails=1", "down"]))),
    meta=st.dictionaries(st.one_of(st.text(max_size=9), st.sampled_from(["max_conns", "backup"])), st.text()),
    weight=st.integers(-5, 10**9),
)
def test_nothing_but_checked_values_comes_out(
    address: str, port: int, tags: list[str], meta: dict[str, str], weight: int
) -> None:
    """Whatever is registered, a server's text has one form."""
    raw = instance(address or "x", port, Tags=tags, Meta=meta, Weights={"Passing": weight, "Warning": weight})

    servers, _ = made(raw)

    assert all(LINE.fullmatch(text) for text in servers)


# ---------------------------------------------------------------- the text

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


@pytest.mark.parametrize("text", ["10.0.0.1:80", "[2001:db8::1]:8080"])
def test_an_address_with_port_is_taken(text: str) -> None:
    """In the form in which nginx has it."""
    assert parse_address(text) == text


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "host:80", "2001:db8::1:80", "[10.0.0.1:80", "10.0.0.1:080000", "10.0.0.1:٣", "10.0.0.1:"],
)
def test_an_address_without_port_is_not(text: str) -> None:
    """The operator learns what is needed."""
    with pytest.raises(ValueError, match=r"needed|not an IP|not a port"):
        parse_address(text)

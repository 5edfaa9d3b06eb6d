"""Instances become servers: what is let through, and what never reaches a configuration."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.testing import instance, service
from handlers.nginx_upstream.hosts import parse_network
from handlers.nginx_upstream.instances import Rules, servers_of
from handlers.nginx_upstream.server import Server

INSTANCES = Path(__file__).parents[3] / "inputs" / "instances-odd.json"
LINE = re.compile(
    r"([0-9.]+|\[[0-9a-f:]+\]):[0-9]+( weight=\d+)?( max_fails=\d+)?( fail_timeout=\d+s)?( max_conns=\d+)?"
    r"( backup)?"
)


def made(*raw: dict[str, Any], rules: Rules | None = None) -> tuple[list[str], list[str]]:
    """The servers as text, and the reasons of the refusals."""
    servers, refused = servers_of(service("web", raw).instances, rules or Rules())
    return [server.text() for server in servers], [one.reason for one in refused]


def test_instances_become_servers_in_the_order_of_their_addresses() -> None:
    """By number, IPv4 first: 10 comes after 9, and IPv6 stands in brackets."""
    hosts = (("2001:db8::1", 80), ("10.0.0.10", 80), ("10.0.0.9", 81), ("10.0.0.9", 9))
    raw = [instance(host, port) for host, port in hosts]

    assert made(*raw)[0] == ["10.0.0.9:9", "10.0.0.9:81", "10.0.0.10:80", "[2001:db8::1]:80"]


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
        "",
        "localhost",
        "127.1",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "2130706433",
        "-oProxyCommand=id",
        "2001:db8::1%eth0",
        "127.0.0.1",
        "127.255.255.254",
        "::1",
        "0:0:0:0:0:0:0:1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::169.254.169.254",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
        "2001:0:c000:201:0:0:80ff:fffe",  # Teredo: 127.0.0.1, inverted
        "0.1.2.3",
        "fe90::1",
        "ff02::1",
    ],
)
def test_what_is_no_servers_address_is_refused(address: str) -> None:
    """Names can block nginx, and anything else is an attack or a mistake."""
    servers, reasons = made(instance(address, 80), instance("10.0.0.1", 80))

    assert servers == ["10.0.0.1:80"]
    assert len(reasons) == 1


def test_translated_addresses_of_others_are_servers() -> None:
    """Where there is no IPv4, a public server is reached through NAT64."""
    assert made(instance("64:ff9b::c000:201", 80)) == (["[64:ff9b::c000:201]:80"], [])


@pytest.mark.parametrize(
    "network, address",
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("::1/128", "::1"),
        ("169.254.0.0/16", "169.254.1.2"),
        ("0.0.0.0/0", "127.0.0.1"),
        ("::ffff:0:0/96", "::ffff:127.0.0.1"),
    ],
)
def test_networks_allow_what_is_refused_otherwise(network: str, address: str) -> None:
    """The operator's word, and the message names the option that takes it."""
    rules = Rules(networks=(parse_network(network),))

    refusal = made(instance(address, 80))[1][0]

    assert made(instance(address, 80), rules=rules)[1] == []
    assert "in the option `networks`, with all other networks that have servers" in refusal


def test_no_other_family_or_spelling_slips_through_a_network() -> None:
    """Loopback was allowed as IPv4: nothing else is."""
    rules = Rules(networks=(parse_network("127.0.0.0/8"),))

    assert made(instance("::ffff:127.0.0.1", 80), instance("10.0.0.1", 80), rules=rules)[0] == []


@given(st.one_of(st.ip_addresses(network="127.0.0.0/8"), st.ip_addresses(network="169.254.0.0/16")))
def test_loopback_does_not_hide_in_an_ipv6_address(address: ipaddress.IPv4Address) -> None:
    """Mapped, translated, or by a tunnel."""
    mapped = ipaddress.IPv6Address((0xFFFF << 32) + int(address))
    nat64 = ipaddress.IPv6Address((0x64FF9B << 96) + int(address))
    six_to_four = ipaddress.IPv6Address((0x2002 << 112) + (int(address) << 80) + 1)

    raw = [instance(str(one), 80) for one in (address, mapped, nat64, six_to_four)]

    assert made(*raw)[0] == []


def test_odd_instances_do_not_disturb_the_others() -> None:
    """A file of them: each that is refused is named with the reason."""
    raw = json.loads(INSTANCES.read_text())

    servers, refused = servers_of(service("api", raw).instances, Rules())

    assert [server.address for server in servers] == ["192.0.2.1:8080", "192.0.2.5:8080"]
    assert {one.instance.id: one.reason.partition(":")[0] for one in refused if one.instance.id != "c"} == {
        "b": "127.0.0.1 is a loopback address",
        "d": "'-oProxyCommand=id' is not an IP address",
        "f": "'' is not an IP address",
    }
    assert "c" in {one.instance.id for one in refused if "it has a zone" in one.reason}


@pytest.mark.parametrize("port", [0, -1, 65536, 10**19])
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


PORTS = [{"Name": "http", "Port": 8080, "Default": True}, {"Name": "grpc", "Port": 9090}]


@pytest.mark.parametrize("name, port", [("", 8080), ("http", 8080), ("grpc", 9090)])
def test_a_port_of_several_is_chosen_by_name(name: str, port: int) -> None:
    """The default one otherwise."""
    servers, reasons = made(instance("10.0.0.1", 0, Ports=PORTS), rules=Rules(port=name))

    assert (servers, reasons) == ([f"10.0.0.1:{port}"], [])


def test_an_instance_without_the_port_is_refused_and_the_others_go_on() -> None:
    """Each with the names that it has."""
    raw = [
        instance("10.0.0.1", 0, Ports=PORTS),
        instance("10.0.0.2", 0, Ports=PORTS[:1]),
        instance("10.0.0.3", 80),
        instance("10.0.0.4", 0),
    ]

    servers, reasons = made(*raw, rules=Rules(port="grpc"))

    assert servers == ["10.0.0.1:9090"]
    assert reasons == [
        "it has no port named 'grpc': its ports are http",
        "it has no port named 'grpc': its ports have no names",
        "it has no port named 'grpc': its ports have no names",
    ]


def test_without_a_name_or_a_default_no_port_is_guessed() -> None:
    """It says which there are."""
    servers, reasons = made(instance("10.0.0.1", 0, Ports=PORTS[1:]), instance("10.0.0.2", 0))

    assert servers == []
    assert reasons == ["none of its ports is the default: choose one of grpc", "it has no port"]

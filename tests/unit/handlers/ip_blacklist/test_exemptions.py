"""What is never blocked: the addresses of this node among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.handler import TemporaryError
from agentd.testing import HandlerHarness, event
from handlers.ip_blacklist import exemptions
from handlers.ip_blacklist.exemptions import current_ranges, own_addresses
from handlers.ip_blacklist.handler import IPBlacklist
from handlers.ip_blacklist.ranges import IPV4, IPV6, parse_cidr

TRIE = """Main:
  +-- 192.0.2.0/24 2 0 2
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 192.0.2.0/28 2 1 2
     |-- 192.0.2.0
        /24 link UNICAST
        /32 host LOCAL
     |-- 192.0.2.9
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
  |-- 198.51.100.0
     /24 host LOCAL
Id 100:
  |-- 0.0.0.0
     /0 host LOCAL
  |-- 203.0.113.1
     /32 host LOCAL
"""
ADDRESS6 = "20010db8000000000000000000000001 02 40 00 80 eth0\n"
_ROUTE6 = f"{{}} {{}} {'0' * 32} 00 {'0' * 32} 00000000 00000003 00000000 {{}} lo\n"
ROUTES6 = (
    _ROUTE6.format("0" * 32, "00", "80000001")  # a transparent proxy's
    + _ROUTE6.format("20010db8000100000000000000000000", "40", "80000001")
    + _ROUTE6.format("20010db8000200000000000000000000", "40", "00000001")
)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the handler reads instead of /proc/self/net; it has one IPv4 and one IPv6 address."""
    (tmp_path / "fib_trie").write_text("  |-- 192.0.2.9\n     /32 host LOCAL\n")
    (tmp_path / "if_inet6").write_text(ADDRESS6)
    (tmp_path / "ipv6_route").write_text(ROUTES6)
    monkeypatch.setattr(exemptions, "NET", tmp_path)
    return tmp_path


def node(**options: object) -> HandlerHarness:
    """A blacklist that has started."""
    made = HandlerHarness(IPBlacklist, options)
    made.initial()
    return made


def exempt(node: HandlerHarness) -> list[str]:
    """What nginx exempts."""
    files = node.files["blacklist/never.ipv4"] + node.files["blacklist/never.ipv6"]
    return [line.removesuffix(" n;") for line in files.decode().splitlines()]


def test_addresses_of_any_table(net: Path) -> None:
    """Main and secondary addresses, those of other tables, and CIDRs that a local route gives the node."""
    (net / "fib_trie").write_text(TRIE)

    assert own_addresses() == [
        "192.0.2.0/32",
        "192.0.2.9/32",
        "198.51.100.0/24",
        "203.0.113.1/32",
        "2001:db8::1/128",
        "2001:db8:1::/64",
    ]


def test_this_machine_has_loopback() -> None:
    """On a real kernel at least 127.0.0.1 is found."""
    assert "127.0.0.1/32" in own_addresses()


def test_a_kernel_without_ipv6(net: Path) -> None:
    """It has IPv4 addresses and nothing to complain about."""
    (net / "if_inet6").unlink()
    (net / "ipv6_route").unlink()

    assert own_addresses() == ["192.0.2.9/32"]


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "name,harm",
    [
        ("fib_trie", Path.unlink),
        ("fib_trie", _directory),
        ("fib_trie", lambda file: file.write_text("  |-- 999.0.0.1\n     /32 host LOCAL\n")),
        ("if_inet6", _directory),
        ("if_inet6", lambda file: file.write_text("nonsense\n")),
        ("ipv6_route", lambda file: file.write_text("short\n")),
    ],
)
def test_what_cannot_be_read_is_an_error(net: Path, name: str, harm: Callable[[Path], object]) -> None:
    """Hidden, unreadable or garbled: never taken for a node without addresses."""
    harm(net / name)

    with pytest.raises(TemporaryError, match=r"addresses of this node cannot be read.*`never_block`"):
        own_addresses()


def test_a_change_waits_while_they_cannot_be_read(net: Path) -> None:
    """Nothing is added that might be this node; once they can be read, all but the node is blocked."""
    blacklist = node()
    (net / "fib_trie").rename(net / "hidden")
    with pytest.raises(TemporaryError, match="addresses of this node"):
        blacklist.handle(event("block", "192.0.2.8/30"))
    blacklist.advance(60.0)
    [told] = blacklist.store["status"]

    (net / "hidden").rename(net / "fib_trie")
    blacklist.handle(event("block", "192.0.2.8/30"))

    blacklist.due()
    assert "addresses of this node cannot be read" in told["trouble"]
    assert blacklist.store["status"] == []
    assert "192.0.2.9-192.0.2.9" in exempt(blacklist)


def test_a_start_while_they_cannot_be_read(net: Path) -> None:
    """The first files are made, since nothing is blocked; a list that blocks something stays as it was."""
    (net / "fib_trie").unlink()
    blacklist = node()
    blacklist.restart({"never_block_node": False})
    blacklist.initial()
    blacklist.handle(event("block", "192.0.2.8/30"))
    blacklist.restart({})

    with pytest.raises(TemporaryError, match="addresses of this node"):
        blacklist.initial()


def test_an_address_that_comes_later(net: Path) -> None:
    """A virtual address that this node takes over is exempt at the next look, until it is gone."""
    blacklist = node()
    before = exempt(blacklist)
    (net / "fib_trie").write_text("  |-- 192.0.2.77\n     /32 host LOCAL\n")

    during = blacklist.advance(60.0), exempt(blacklist)
    (net / "fib_trie").write_text("  |-- 192.0.2.9\n     /32 host LOCAL\n")
    blacklist.advance(60.0)

    assert during[0] == ("blacklist/never.ipv4",)
    assert "192.0.2.77-192.0.2.77" in during[1]
    assert exempt(blacklist) == before


def test_expiry_goes_on_without_them(net: Path) -> None:
    """An entry ends on time although the kernel does not tell; what was exempt remains so."""
    blacklist = node()
    blacklist.handle(event("block", "add 192.0.2.8/30 10s"))
    (net / "fib_trie").unlink()

    blacklist.advance(11.0)

    assert blacklist.files["blacklist/ipv4.ranges"] == b""
    assert "192.0.2.9-192.0.2.9" in exempt(blacklist)


def test_a_look_at_the_same_addresses_changes_nothing(net: Path) -> None:
    """As long as they are the same, an hour leaves no generation behind."""
    blacklist = node()
    assert (net / "fib_trie").exists()

    assert blacklist.advance(3600.0) == ()


def test_instances_are_exempt() -> None:
    """The addresses of instances are merged by family; host names are left out."""
    found = current_ranges(["192.0.2.1", "192.0.2.0", "lb.example", "2001:db8::1"], [])

    assert found == {IPV4: [parse_cidr("192.0.2.0/31").range], IPV6: [parse_cidr("2001:db8::1").range]}

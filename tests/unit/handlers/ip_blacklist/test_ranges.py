"""Addresses and ranges, against the standard library's slow ones."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ip_blacklist.ranges import Range, cidrs, format_address, merge, parse_cidr, subtract

small_ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=12,
)
networks = st.one_of(
    st.builds(lambda a, p: f"{a}/{p}", st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda a, p: f"{a}/{p}", st.ip_addresses(v=6), st.integers(0, 128)),
)


def members(ranges: list[Range]) -> set[int]:
    """Every address of the ranges."""
    return {value for first, last in ranges for value in range(first, last + 1)}


@given(networks)
def test_cidr_as_the_standard_library_reads_it(text: str) -> None:
    """A CIDR has the first and last address that `ipaddress` gives it, but for IPv4-mapped ones."""
    expected = ipaddress.ip_network(text, strict=False)
    block = parse_cidr(text)

    if block.bits == expected.max_prefixlen:
        assert (block.first, block.last) == (int(expected[0]), int(expected[-1]))
        assert block.prefix == expected.prefixlen
    else:
        assert str(expected[0]).startswith("::ffff:")


@pytest.mark.parametrize(
    "text,same",
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("2001:DB8:0::1", "2001:db8::1/128"),
    ],
)
def test_two_ways_to_write_the_same(text: str, same: str) -> None:
    """IPv4-mapped addresses are IPv4, host bits are cleared, and case and zeros do not matter in IPv6."""
    assert parse_cidr(text) == parse_cidr(same)


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "/8", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/ 8",
        "1.2.3.4/+8", "1.2.3.4/08", "1.2.3.4/-1", "1.2.3.4/8/8", " 1.2.3.4", "1.2.3.4\n", "+8", "8", "0x7f.1",
        "1.2.3.4/٣", "٣.1.1.1", "1.2.3.4\x00", "fe80::1%eth0", "::1/129", ":::", "1::2::3", "::1.2.3.04",
        "12345::", "localhost", "1.2.3.4-1.2.3.9", "[::1]", "1.2.3.4/255.255.255.0",  "\uff19.9.9.9",
    ],
)  # fmt: skip
def test_junk(text: str) -> None:
    """What is no address or CIDR is refused, also where `int()` and `ipaddress` are lenient."""
    with pytest.raises(ValueError, match=r"not an address|prefix is longer"):
        parse_cidr(text)


@given(st.one_of(st.text(max_size=30), st.text("0123456789abcdefABCDEF.:/% +-٣", max_size=30)))
def test_any_text_is_a_cidr_or_refused(text: str) -> None:
    """Nothing but ValueError comes out, and what is accepted is what the standard library accepts too."""
    try:
        parse_cidr(text)
    except ValueError:
        return
    ipaddress.ip_network(text, strict=False)


@given(small_ranges)
def test_merge(ranges: list[Range]) -> None:
    """Merged ranges hold the same addresses, sorted, with a gap between any two."""
    merged = merge(ranges)

    assert members(merged) == members(ranges)
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(merged))


@given(small_ranges, small_ranges)
def test_subtract(ranges: list[Range], holes: list[Range]) -> None:
    """Subtracting is set difference, and leaves the ranges merged."""
    left = subtract(merge(ranges), merge(holes))

    assert members(left) == members(ranges) - members(holes)
    assert left == merge(left)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_cidrs_ipv6(one: int, other: int) -> None:
    """A range becomes the CIDRs that the standard library makes of it."""
    first, last = sorted((one, other))
    expected = ipaddress.summarize_address_range(ipaddress.IPv6Address(first), ipaddress.IPv6Address(last))

    assert [ipaddress.ip_network(text) for text in cidrs(128, first, last)] == list(expected)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_cidrs_ipv4(one: int, other: int) -> None:
    """The same for IPv4."""
    first, last = sorted((one, other))
    expected = ipaddress.summarize_address_range(ipaddress.IPv4Address(first), ipaddress.IPv4Address(last))

    assert list(cidrs(32, first, last)) == [str(network) for network in expected]


def test_everything_is_one_cidr() -> None:
    """The whole of a family is one CIDR."""
    assert list(cidrs(32, 0, 2**32 - 1)) == ["0.0.0.0/0"]


@given(st.ip_addresses(v=4))
def test_format_ipv4(address: ipaddress.IPv4Address) -> None:
    """IPv4 addresses print as usual."""
    assert format_address(32, int(address)) == str(address)

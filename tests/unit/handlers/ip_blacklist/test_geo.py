"""nginx's `geo` files: written, searched, and combined by the include."""

from __future__ import annotations

import ipaddress
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ip_blacklist.geo import Geo, few_range_lines, include, overlaps, range_lines, within
from handlers.ip_blacklist.ranges import IPV4, Block, merge, parse_cidr, subtract


def test_looking_up_ipv6(tmp_path: Path) -> None:
    """Bisection works on CIDRs as well."""
    file = tmp_path / "cidrs"
    file.write_text("2001:db8::/64 1;\n2001:db8:1::/48 1;\n2001:db8:5::1/128 1;\n")

    found = [
        overlaps(file, parse_cidr(one))
        for one in (
            "2001:db8::1",
            "2001:db8:0:1::",
            "2001:db8:1:5::",
            "2001:db8::/32",
            "2001:db8:5::1",
            "::2",
        )
    ]

    assert found == [True, False, True, True, True, False]


def test_many_lists_need_a_regular_expression() -> None:
    """With few lists the map compares strings, with many it would outgrow nginx's hash."""
    few = include("a", [Geo(f"v{n}", "f", ranges=True) for n in range(3)])
    many = include("a", [Geo(f"v{n}", "f", ranges=True) for n in range(30)])

    assert (b'"111" $a_blockable;' in few, b"~^1" in few) == (True, False)
    assert (b"~^1 $a_blockable;" in many, b'"1" $a' in many) == (True, False)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_rendered_ranges(values: list[int]) -> None:
    """Ranges print as addresses do."""
    ranges = subtract(merge((value, value) for value in values), [])

    assert "".join(range_lines(ranges)) == "".join(
        f"{ipaddress.IPv4Address(a)}-{ipaddress.IPv4Address(b)} 1;\n" for a, b in ranges
    )


@pytest.mark.parametrize("count", [10, 5000])
def test_lines_that_come_again_are_the_same(count: int) -> None:
    """Few are remembered, and of many none."""
    ranges = [(2 * number, 2 * number) for number in range(count)]

    for _ in range(2):
        assert list(few_range_lines(ranges)) == list(range_lines(ranges))


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20)), max_size=12),
    st.integers(0, 320),
    st.integers(0, 5),
)
def test_what_a_file_has_of_a_block(found: list[tuple[int, int]], address: int, width: int) -> None:
    """It is what a look at every address would find, however the ranges lie."""
    ranges = merge((first, first + more) for first, more in found)
    first = address >> width << width
    block = Block(IPV4, first, first + (1 << width) - 1)
    with tempfile.TemporaryDirectory() as made:
        file = Path(made, "ranges")
        file.write_text("".join(range_lines(ranges)))

        cut = list(within(file, block))

    inside = {
        one for begin, end in ranges for one in range(begin, end + 1) if block.first <= one <= block.last
    }
    assert {one for begin, end in cut for one in range(begin, end + 1)} == inside
    assert cut == merge(cut)

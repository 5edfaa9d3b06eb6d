"""A compiled list against naive sets of addresses."""

from __future__ import annotations

import ipaddress
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ip_blacklist.compile import CompileJob, compile_list
from handlers.ip_blacklist.geo import overlaps
from handlers.ip_blacklist.ranges import merge, parse_cidr

small = st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=12)


@given(small, small)
def test_a_compiled_list_against_sets(
    tmp_path_factory: pytest.TempPathFactory, named: list[tuple[int, int]], spared: list[tuple[int, int]]
) -> None:
    """What is enforced is what is named but for what is spared, address by address."""
    directory = tmp_path_factory.mktemp("list")
    source = directory / "source"
    source.write_text("".join(f"192.0.2.{last}/{prefix}\n" for last, prefix in named))
    holes = merge(parse_cidr(f"192.0.2.{last}/{prefix}").range for last, prefix in spared)

    report = compile_list(CompileJob(str(source), str(directory), None, holes, [], (8, 19)))
    expected = addresses(named) - addresses(spared)

    lines = (directory / "ipv4.ranges").read_text().splitlines()
    pairs = [tuple(map(ipaddress.IPv4Address, line.removesuffix(" 1;").split("-"))) for line in lines]
    assert {a for first, last in pairs for a in range(int(first), int(last) + 1)} == expected
    assert (report.ipv4_addresses, report.ipv4_ranges) == (len(expected), len(lines))
    for address in range(int(ipaddress.IPv4Address("192.0.1.250")), int(ipaddress.IPv4Address("192.0.3.5"))):
        block = parse_cidr(str(ipaddress.IPv4Address(address)))
        assert overlaps(directory / "ipv4.ranges", block) == (address in expected)


def addresses(named: list[tuple[int, int]]) -> set[int]:
    """All addresses of the networks."""
    networks = (ipaddress.ip_network(f"192.0.2.{last}/{prefix}", strict=False) for last, prefix in named)
    return {int(address) for network in networks for address in network}


def test_a_short_list_takes_little_memory(tmp_path: Path) -> None:
    """The daemon compiles it itself, each time a feed is fetched, and would not get smaller again."""
    source = tmp_path / "source"
    source.write_text("".join(f"192.0.2.{last}\n" for last in range(0, 200, 2)))
    job = CompileJob(str(source), str(tmp_path), None, [], [], (8, 19))
    compile_list(job)
    tracemalloc.start()
    try:
        compile_list(job)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3_000_000  # a megabyte is read at once

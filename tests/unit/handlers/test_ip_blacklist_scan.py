"""The bulk reader, its formats and its look-up, against the strict parser of single lines and naive sets."""

from __future__ import annotations

import io
import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ip_blacklist.bulk import Job, compile_list
from handlers.ip_blacklist.formats import Malformed, detect, plain
from handlers.ip_blacklist.lookup import overlaps
from handlers.ip_blacklist.node import own_addresses
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, merge, parse_cidr, subtract
from handlers.ip_blacklist.render import Geo, configuration, geo_ranges
from handlers.ip_blacklist.scan import merged, scan
from tests.messy import JUNK, messy


def naive(data: bytes) -> tuple[dict[int, list[Range]], int]:
    """The merged ranges by family and the number of rejected lines, line by line and slowly."""
    blocks, rejected = [], 0
    for line in data.removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n"):
        cut = min((at for mark in "#;" if (at := line.find(mark)) >= 0), default=len(line))
        text = line[:cut].strip(" \t\r")
        try:
            blocks += [parse_cidr(text)] if text else []
        except ValueError:
            rejected += 1
    return {bits: merge(b.range for b in blocks if b.bits == bits) for bits in (IPV4, IPV6)}, rejected


def check(data: bytes) -> None:
    """Both agree."""
    found = scan(io.BytesIO(data))
    ranges, rejected = naive(data)

    assert list(merged(found.ipv4, IPV4)) == ranges[IPV4]
    assert list(merged(found.ipv6, IPV6)) == ranges[IPV6]
    assert found.rejected == rejected


@pytest.mark.parametrize("seed", range(5))
def test_messy_lists(seed: int) -> None:
    """A messy list is read as line by line."""
    check(messy(2000, seed=seed, ipv6=0.4, junk=0.05))


@pytest.mark.parametrize("line", JUNK)
def test_junk(line: str) -> None:
    """No junk is accepted, with or without a comment behind it."""
    found = scan(io.BytesIO(f"{line}\n{line} # why\n".encode()))

    assert (found.entries, found.rejected) == (0, 2)


words = st.sampled_from(
    ["192.0.2.1", "10.0.0.0/8", "::1", "2001:db8::/32", "::ffff:1.2.3.4", "/8", "#", ";", "\n", "\r\n", " ",
     "\t", "+8", "٣", "%eth0", "-", ":", ".", "0", "/33", "\x00", "\x0b", "\u2028", "\xa0", "1.2.3.4/ 8"]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=300), st.lists(words, max_size=25).map(lambda w: "".join(w).encode())))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes, nothing is raised, and just what the strict parser takes is taken."""
    check(data)


@given(
    st.binary(max_size=300) | st.text('{}[]",:#nul truecidvaltyp0123456789.\n', max_size=200).map(str.encode)
)
def test_any_source_of_any_format(data: bytes) -> None:
    """A source is read or malformed; nothing else is raised."""
    for form in ("plain", "firehol", "spamhaus", "crowdsec", detect(data)):
        try:
            made = plain(data, form)
        except Malformed:
            continue
        assert made.text is None or made.text.count(b"\n") <= data.count(b"{")


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

    report = compile_list(Job(str(source), str(directory), None, holes, [], (8, 19)))
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


# ---------------------------------------------------------------- formats

SPAMHAUS = b'{"cidr":"192.0.2.0/24","sblid":"SBL1"}\n{"type":"metadata","records":1}\n'
CROWDSEC = [
    {"value": "192.0.2.1", "scope": "Ip", "type": "ban", "scenario": "ssh-bf", "duration": "3h"},
    {"value": "192.0.2.0/25", "scope": "Range", "type": "ban"},
    {"value": "192.0.2.2", "scope": "Ip", "type": "captcha"},
    {"value": "192.0.2.3", "scope": "Ip", "type": "ban", "duration": "-1s"},
    {"value": "AS1", "scope": "AS", "type": "ban"},
]


@pytest.mark.parametrize(
    "head,form",
    [
        (b"192.0.2.1\n", "plain"),
        (b"", "plain"),
        (b"#\n# Entries         : 4,501 subnets, 612 unique IPs\n", "firehol"),
        (SPAMHAUS, "spamhaus"),
        (b"\xef\xbb\xbf [", "crowdsec"),
        (b'{"new":[],"deleted":null}', "crowdsec"),
        (b"null", "crowdsec"),
    ],
)
def test_formats_are_told_apart(head: bytes, form: str) -> None:
    """The beginning of a source tells its format."""
    assert detect(head) == form


def test_firehol_declares_its_entries() -> None:
    """The header's count is read, with its separators."""
    assert plain(b"# Entries : 4,501 subnets\n", "firehol").declared == 4501


def test_spamhaus() -> None:
    """Each record becomes a line with its reference, and the metadata's count is kept."""
    made = plain(SPAMHAUS, "spamhaus")

    assert (made.text, made.declared) == (b"192.0.2.0/24 # SBL1\n", 1)


@pytest.mark.parametrize("wrap", [list, lambda d: {"new": d}, lambda d: [{"id": 1, "decisions": d}]])
def test_crowdsec(wrap: type[list[object]]) -> None:
    """Bans of addresses and ranges that have not ended are taken, others counted."""
    made = plain(json.dumps(wrap(CROWDSEC)).encode(), "crowdsec")

    assert (made.text, made.skipped) == (b"192.0.2.1 # ssh-bf\n192.0.2.0/25\n", 3)


@pytest.mark.parametrize(
    "data,form,reason",
    [
        (b"192.0.2.1\n", "firehol", "no `# Entries"),
        (b'{"cidr":"192.0.2.0/24"}\n', "spamhaus", "cut short"),
        (b'{"cidr":"192.0.2.0/24"}\n{"cid', "spamhaus", "line 2 is not JSON"),
        (b'{"type":"metadata","records":"1"}', "spamhaus", "not a number"),
        (b"[1]", "spamhaus", "not a JSON object"),
        (b"{}", "crowdsec", ""),
        (b"[1]", "crowdsec", "array of decisions"),
        (b"[" * 100_000, "crowdsec", "not JSON"),
    ],
)
def test_malformed(data: bytes, form: str, reason: str) -> None:
    """A source that is not in its format says what is wrong with it."""
    if not reason:
        assert plain(data, "crowdsec").text == b""
        return
    with pytest.raises(Malformed, match=reason):
        plain(data, form)  # type: ignore[arg-type] # a literal, as mypy does not see


# ---------------------------------------------------------------- the rest


def test_own_addresses(tmp_path: Path) -> None:
    """The kernel's tables give every address of this node; where there are none, there are no addresses."""
    (tmp_path / "fib_trie").write_text(
        "  |-- 192.0.2.9\n     /32 host LOCAL\n  |-- 192.0.2.0\n     /24 link UNICAST\n"
    )
    (tmp_path / "if_inet6").write_text("20010db8000000000000000000000001 02 40 00 80 eth0\n")

    assert own_addresses(tmp_path) == [parse_cidr("192.0.2.9"), parse_cidr("2001:db8::1")]
    assert own_addresses(tmp_path / "none") == []


def test_this_machine_has_loopback() -> None:
    """On a real kernel at least 127.0.0.1 is found."""
    assert parse_cidr("127.0.0.1") in own_addresses()


def test_many_lists_need_a_regular_expression() -> None:
    """With few lists the map compares strings, with many it would outgrow nginx's hash."""
    few = configuration("a", [Geo(f"v{n}", "f", ranges=True) for n in range(3)])
    many = configuration("a", [Geo(f"v{n}", "f", ranges=True) for n in range(30)])

    assert (b'"111" $a_blockable;' in few, b"~^1" in few) == (True, False)
    assert (b"~^1 $a_blockable;" in many, b'"1" $a' in many) == (True, False)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_rendered_ranges(values: list[int]) -> None:
    """Ranges print as addresses do."""
    ranges = subtract(merge((value, value) for value in values), [])

    assert "".join(geo_ranges(ranges)) == "".join(
        f"{ipaddress.IPv4Address(a)}-{ipaddress.IPv4Address(b)} 1;\n" for a, b in ranges
    )

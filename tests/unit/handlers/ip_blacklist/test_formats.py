"""Each format of a list, and the bulk reader of plain lines against the reader of single lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ip_blacklist import guards, lines
from handlers.ip_blacklist.compile import CompileJob, Report, compile_list
from handlers.ip_blacklist.documents import Malformed, convert
from handlers.ip_blacklist.formats import Format, document, header, merged, scan
from handlers.ip_blacklist.options import ListOptions
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, merge
from tests.messy import JUNK, messy
from tests.timing import TIMES, growth

INPUTS = Path(__file__).parents[3] / "inputs"


def compiled(directory: Path, data: bytes, form: Format | None = None, most: int | None = None) -> Report:
    """The figures of a list."""
    (directory / "source").write_bytes(data)
    return compile_list(
        CompileJob(str(directory / "source"), str(directory), form, [], [], (8, 19), [], most)
    )


def naive(data: bytes) -> tuple[dict[int, list[Range]], int]:
    """The merged ranges by family and the number of rejected lines, line by line."""
    found: list[lines.Named] = []
    rejected = 0
    for line in data.decode("latin-1").split("\n"):
        entry, _ = lines.split(line)
        try:
            named = lines.read(entry) if entry else None
        except ValueError:
            rejected += 1
        else:
            found += [] if named is None else [named]
    return {bits: merge(one for width, one in found if width == bits) for bits in (IPV4, IPV6)}, rejected


def check(data: bytes) -> None:
    """Both agree."""
    found = scan(io.BytesIO(data))
    ranges, rejected = naive(data)

    assert list(merged(found, IPV4)) == ranges[IPV4]
    assert list(merged(found, IPV6)) == ranges[IPV6]
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
    ["192.0.2.1", "10.0.0.0/8", "::1", "2001:db8::/32", "::ffff:1.2.3.4", "/8", "#", ";", "//", "\n", "\r\n",
     " ", "\t", "+8", "٣", "%eth0", "-", ",", '"', ":", ".", "0", "/33", "\x00", "\x0b", "\u2028", "\xa0",
     "255.255.0.0", "1.2.3.4/ 8", "ExitAddress ", "add x ", "2026-01-31"]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=300), st.lists(words, max_size=25).map(lambda w: "".join(w).encode())))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes, nothing is raised, and just what the reader of lines takes is taken."""
    check(data)


@given(
    st.binary(max_size=300)
    | st.text('{}[]",:#nul truecidvaltypnwos0123456789.\n', max_size=200).map(str.encode)
    | st.lists(words, max_size=25).map(lambda w: "".join(w).encode()),
    st.sampled_from([None, "plain", "firehol", "spamhaus", "crowdsec"]),
)
def test_any_source_of_any_format(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, form: Format | None
) -> None:
    """A source is read or malformed; nothing else is raised."""
    report = compiled(tmp_path_factory.mktemp("list"), data, form)

    assert report.malformed or report.entries + report.rejected <= data.count(b"\n") + data.count(b"{") + 1


# ---------------------------------------------------------------- which format

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
        (b"192.0.2.1\n", None),
        (b"", None),
        (b"#\n# Entries         : 4,501 subnets, 612 unique IPs\n", None),
        (SPAMHAUS, "spamhaus"),
        (b"\xef\xbb\xbf [", "crowdsec"),
        (b'{"new":[],"deleted":null}', "crowdsec"),
        (b'{\n  "deleted" : [' + b"{}," * 9000, "crowdsec"),
        (b"null\n", "crowdsec"),
    ],
)
def test_documents_are_told_apart(head: bytes, form: str | None) -> None:
    """The beginning of a source tells, however much of it is to be skipped."""
    assert document(io.BytesIO(head)) == form


@pytest.mark.parametrize(
    "name,entries,addresses",
    [
        ("crowdsec-deleted-first.json", 1, 1),
        ("dshield.txt", 2, 512),
        ("ranges.txt", 2, 260),
        ("netmask.txt", 2, 512),
        ("nbsp.txt", 2, 257),
        ("slash-comments.txt", 2, 257),
        ("address-and-count.txt", 2, 2),
        ("crowdsec-null.json", 0, 0),
    ],
)
def test_the_inputs(tmp_path: Path, name: str, entries: int, addresses: int) -> None:
    """What publishers serve is read without a hint."""
    report = compiled(tmp_path, (INPUTS / name).read_bytes())

    assert (report.entries, report.rejected, report.malformed) == (entries, 0, "")
    assert report.ipv4_addresses == addresses


@pytest.mark.parametrize("distance", [0, 100, 5_000])
def test_firehol_declares_its_entries(tmp_path: Path, distance: int) -> None:
    """The header's count is read, with its separators, however long the header is."""
    data = b"# remark of some length\n" * distance + b"# Entries : 4,501 subnets\n192.0.2.1\n"

    assert (compiled(tmp_path, data).form, compiled(tmp_path, data).declared) == ("firehol", 4501)


def test_a_comment_below_the_first_entry_declares_nothing(tmp_path: Path) -> None:
    """A list may talk about entries."""
    report = compiled(tmp_path, b"192.0.2.1\n# Entries : 900\n192.0.2.2\n")

    assert (report.form, report.declared) == ("plain", None)


@pytest.mark.parametrize(
    "names", [b"ip\n", b'"ip","last seen"\n', b"network,cc\n", b"Start\tEnd\tNetmask\n", b"ip;why\n"]
)
def test_the_names_of_columns_are_no_junk(tmp_path: Path, names: bytes) -> None:
    """Only in front of everything else, and only names that mean an address."""
    row = b"192.0.2.1\n"

    assert compiled(tmp_path, b"\xef\xbb\xbf# by us\n" + names + row).rejected == 0
    assert compiled(tmp_path, names + names + row).rejected == 1
    assert compiled(tmp_path, b"colour,shape\n" + row).rejected == 1


@pytest.mark.parametrize(
    "data,entries,addresses",
    [
        (b"; Spamhaus DROP\n1.10.16.0/20 ; SBL256894\n", 1, 4096),
        (b"ExitNode AB\nPublished 2026-01-01 00:00:00\nExitAddress 5.6.7.8 2026-01-01 00:05:01\n", 1, 1),
        (b"create x hash:net family inet hashsize 1024\nadd x 5.6.7.0/24\nadd x 5.6.8.9\n", 2, 257),
        (b'"ip","country"\n"5.6.7.8","XX"\n5.6.7.9,YY\n', 2, 2),
        (b"5.6.7.8\r\n5.6.7.9 \xa0\r\n\xef\xbb\xbf5.6.7.10\r\n", 3, 3),
        (b"5.6.7.0 255.255.255.0\n", 1, 256),
    ],
)  # fmt: skip
def test_what_public_lists_look_like(tmp_path: Path, data: bytes, entries: int, addresses: int) -> None:
    """Spamhaus' text, Tor's exits, `ipset save`, CSV, Windows' line ends, columns of masks."""
    report = compiled(tmp_path, data)

    assert (report.entries, report.rejected, report.ipv4_addresses) == (entries, 0, addresses)


def test_a_range_that_is_too_wide_is_told(tmp_path: Path) -> None:
    """As a prefix that is too short would be."""
    report = compiled(tmp_path, b"1.0.0.0-2.0.0.0\n5.0.0.0-5.255.255.255\n6.0.0.0/7\n2000::-2fff::\n")

    assert report.wide == 3
    assert set(report.widest) == {"1.0.0.0-2.0.0.0", "6.0.0.0/7", "2000::-2fff::"}


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("line", ["192.0.2.1\n", "junk\n", "1.1.1.1-1.1.1.3\n"])
def test_reading_stops_at_the_limit(tmp_path: Path, line: str) -> None:
    """A list with too many lines is not read to its end, and nothing is made of it."""
    report = compiled(tmp_path, line.encode() * 300_000, most=1000)

    assert not report.whole
    assert 1000 < report.entries + report.rejected < 250_000
    assert not (tmp_path / "ipv4.ranges").exists()


def test_writing_stops_at_the_limit(tmp_path: Path) -> None:
    """A range of IPv6 addresses becomes many CIDRs; that a short list becomes a million is told."""
    ranges = "".join(f"2001:db8:{n:x}::1-2001:db8:{n:x}:ffff:ffff:ffff:ffff:fffe\n" for n in range(100))
    report = compiled(tmp_path, ranges.encode(), most=1000)
    objection = guards.check("it", ListOptions(most_entries=1000), report, None)["entries"]

    assert (report.whole, report.entries) == (False, 100)
    assert "at least 1001 CIDRs that IPv6 ranges become are more than most_entries, 1000" in objection


def test_converting_stops_at_the_limit(tmp_path: Path) -> None:
    """A document as well."""
    report = compiled(tmp_path, b'{"cidr":"192.0.2.0/24"}\n' * 5000, most=1000)

    assert (report.whole, report.entries) == (False, 1001)


@pytest.mark.parametrize("form", [None, "plain", "spamhaus"])
def test_a_line_without_end_is_not_read(tmp_path: Path, form: Format | None) -> None:
    """What is behind its first part is not taken for a line of its own."""
    report = compiled(tmp_path, b"# " + b"x" * 3_000_000 + b"\n192.0.2.1\n", form)

    assert "longer than" in report.malformed


def test_a_line_is_read_in_time_that_grows_with_its_length(tmp_path: Path) -> None:
    """No line can hold the daemon up; these were made to have a regular expression try again and again."""

    def work(length: int) -> None:
        evil = [
            b":" * 41 + b" " * length + b"x",
            b" " * length + b"x",
            b"1.2.3.4" + b" - " * (length // 3),
            b"//" * (length // 2),
        ]
        assert compiled(tmp_path, b"\n".join(evil)).entries == 0

    assert growth(work, 60_000 // TIMES, 60_000).linear


# ---------------------------------------------------------------- documents


def converted(data: bytes, form: str) -> tuple[list[str], int | None, int]:
    """The lines, the count that is declared, and the records left out."""
    found: list[str] = []
    made = convert(io.BytesIO(data), form, found.append)  # type: ignore[arg-type] # a literal
    return found, made.declared, made.skipped


def test_spamhaus() -> None:
    """Each record becomes a line with its reference, and the metadata's count is kept."""
    assert converted(SPAMHAUS, "spamhaus") == (["192.0.2.0/24 # SBL1"], 1, 0)


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        lambda d: {"new": d},
        lambda d: {"deleted": [{"value": "1.1.1.1"}], "new": d},
        lambda d: [{"id": 1, "decisions": d}, {"id": 2, "decisions": None}],
    ],
)
def test_crowdsec(wrap: type[list[object]]) -> None:
    """Bans of addresses and ranges that have not ended are taken, others counted."""
    found = converted(json.dumps(wrap(CROWDSEC)).encode(), "crowdsec")

    assert found == (["192.0.2.1 # ssh-bf", "192.0.2.0/25"], None, 3)


@pytest.mark.parametrize("data", [b"null", b"[]", b'{"new":null,"deleted":null}', b'{"new":[]}'])
def test_no_decisions(data: bytes) -> None:
    """There is more than one way to say it."""
    assert converted(data, "crowdsec") == ([], None, 0)


@pytest.mark.parametrize(
    "value", ["1.2.3.4 5", "1.2.3.4,x", "//", "# x", "", "1.2.3.4\n5.6.7.8", 7, None, ["::"]]
)
def test_a_record_is_one_line(value: object) -> None:
    """Whatever it contains: otherwise the count would not be that of the records."""
    (line,), _, _ = converted(json.dumps([{"value": value}]).encode(), "crowdsec")

    found = scan(io.BytesIO(line.encode()))
    assert (found.entries, found.rejected) == (0, 1)


@pytest.mark.parametrize(
    "data,form,reason",
    [
        (b'{"cidr":"192.0.2.0/24"}\n', "spamhaus", "cut short"),
        (b'{"cidr":"192.0.2.0/24"}\n{"cid', "spamhaus", "line 2 is not JSON"),
        (b'{"type":"metadata","records":"1"}', "spamhaus", "not a number"),
        (b'{"type":"metadata","records":' + b"1" * 5000 + b"}", "spamhaus", "line 1 is not JSON"),
        (b"[1]", "spamhaus", "not a JSON object"),
        (b"{}", "crowdsec", "without"),
        (b'{"message":"access forbidden"}', "crowdsec", "without"),
        (b"[1]", "crowdsec", "array of decisions"),
        (b"7", "crowdsec", "array of decisions"),
        (b'[{"decisions":7}]', "crowdsec", "array of decisions"),
        (b'[{"decisions":[7]}]', "crowdsec", "array of decisions"),
        (b"[" * 100_000, "crowdsec", "not JSON"),
        (b'[{"value":"\xff"}]', "crowdsec", "not JSON"),
        (b"[" + b"9" * 5000 + b"]", "crowdsec", "not JSON"),
    ],
)
def test_malformed(data: bytes, form: str, reason: str) -> None:
    """A source that is not in its format says what is wrong with it."""
    with pytest.raises(Malformed, match=reason):
        converted(data, form)


def test_a_type_of_any_shape_is_no_ban() -> None:
    """However deep it is nested."""
    deep: object = []
    for _ in range(900):
        deep = [deep]
    assert converted(json.dumps([{"value": "192.0.2.1", "type": deep}]).encode(), "crowdsec") == ([], None, 1)


def test_the_header_ends_before_the_first_entry() -> None:
    """What is read as lines begins there."""
    assert header(io.BytesIO(b"\xef\xbb\xbf# x\n\nip,x\n192.0.2.1\n")).size == len(
        b"\xef\xbb\xbf# x\n\nip,x\n"
    )

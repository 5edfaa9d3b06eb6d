"""Blacklists as their publishers serve them: which format it is, and how plain lines become addresses.

Owns the formats: plain lines, FireHOL's netset, and the JSON of `documents`. Where a format says how many
entries it has, that is checked, because a truncated list otherwise looks like a good one.

Plain lines are read in bulk: one regular expression takes a megabyte of lines apart, and the system's own
parsers turn the usual ones, an address or CIDR with a comment, into numbers; `lines` reads the others. The
result is as strict as `ranges.parse_cidr`: host bits are cleared, and an IPv4-mapped address is its IPv4
address. Pure but for reading the file, and bounded: what it takes grows with the file's size alone.

Source: https://iplists.firehol.org
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_INET6, inet_aton, inet_pton
from sys import byteorder
from typing import BinaryIO, Final, Literal

from handlers.ip_blacklist import lines
from handlers.ip_blacklist.documents import LONGEST_LINE, Document, Malformed
from handlers.ip_blacklist.documents import lines as raw_lines
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, joined

Format = Literal["plain", "firehol", "spamhaus", "crowdsec"]

_HEAD: Final = 4096
_MARK: Final = b"\xef\xbb\xbf"
_STREAM: Final = re.compile(rb'\{\s*"(?:new|deleted)"\s*:')  # how CrowdSec's stream begins
_ENTRIES: Final = re.compile(rb"#[ \t]*Entries[ \t]*:[ \t]*([0-9][0-9,]{0,14})\b")

_CHUNK: Final = 1 << 20
_EXAMPLES: Final = 3  # lines that are quoted
_QUOTED: Final = 60
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# Possessive, so that no line makes it try again and again.
_LINE: Final = re.compile(
    rf"^[ \t]*+(?:((?:{_OCTET}\.){{3}}{_OCTET})(?:/(3[0-2]|[12]?[0-9]))?"
    r"|([0-9A-Fa-f:.]{2,45}+)(?:/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)"
    r"[ \t\r]*+(?:[#;].*)?$|(.+)",
    re.MULTILINE,
)
_MAPPED: Final = 0xFFFF
_MAPPED_PREFIX: Final = IPV6 - IPV4
_ALL4: Final = (1 << IPV4) - 1


def document(source: BinaryIO) -> Document | None:
    """The format of JSON, or None if it is none; the source is read from its beginning."""
    source.seek(0)
    start = source.read(_HEAD).removeprefix(_MARK).lstrip()
    if start.startswith(b"[") or start.rstrip() == b"null" or _STREAM.match(start):
        return "crowdsec"
    if not start.startswith(b"{"):
        return None
    return "crowdsec" if b'"new"' in start else "spamhaus"


def is_document(path: Path) -> bool:
    """Whether a file is JSON, which takes many times its size to read. Raises OSError."""
    with path.open("rb") as source:
        return document(source) is not None


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the first entry of a list that is not JSON.

    Attributes:
        size: its length in bytes.
        declared: how many entries it says there are; None if it does not say.
    """

    size: int
    declared: int | None


def header(source: BinaryIO) -> Header:
    """Read comments, blank lines, and the names of a table's columns, however many there are.

    Raises:
        Malformed: a line is too long.
    """
    source.seek(0)
    size, declared = 0, None
    for line in raw_lines(source):
        text = line.removeprefix(_MARK) if size == 0 else line
        entry, _ = lines.split(text.decode("latin-1").rstrip("\n"))
        if declared is None and (found := _ENTRIES.match(text.lstrip(b" \t"))):
            declared = int(found[1].replace(b",", b""))
        if entry and not lines.names_columns(entry):
            break
        size += len(line)
        if entry:
            break
    return Header(size, declared)


@dataclass
class Scanned:
    """What was read.

    Attributes:
        ipv4: prefix length -> addresses, with their host bits.
        ipv6: prefix length -> addresses, with their host bits.
        ranges: width -> ranges that are no CIDRs, each packed into one integer.
        entries: number of lines with an address, CIDR or range.
        rejected: number of lines with something else, neither blank nor a comment.
        examples: a few of the rejected lines, printable.
        whole: whether all of it was read.
    """

    ipv4: dict[int, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("I")))
    ipv6: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    ranges: dict[int, list[int]] = field(default_factory=lambda: {IPV4: [], IPV6: []})
    entries: int = 0
    rejected: int = 0
    examples: list[str] = field(default_factory=list)
    whole: bool = True

    def read(self, line: str) -> None:
        """Read a line that is not among the usual ones."""
        entry, _ = lines.split(line)
        if not entry:
            return
        try:
            named = lines.read(entry)
        except ValueError:
            self.reject(entry)
            return
        if named is not None:
            bits, (first, last) = named
            self.entries += 1
            self.ranges[bits].append(first << bits | last)

    def reject(self, entry: str) -> None:
        """Count a line that is not an address."""
        self.rejected += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(ascii(entry[:_QUOTED]))

    def blocks(self, bits: int, longest: int) -> Iterator[Range]:
        """Every entry of a family that has more addresses than a CIDR of this prefix length."""
        every = (1 << bits) - 1
        families: Iterable[tuple[int, Iterable[int]]] = (self.ipv4 if bits == IPV4 else self.ipv6).items()
        for prefix, values in families:
            if prefix < longest:
                hosts = every >> prefix
                yield from ((value & ~hosts, value | hosts) for value in values)
        for both in self.ranges[bits]:
            first, last = both >> bits, both & every
            if last - first > every >> longest:
                yield first, last


def scan(source: BinaryIO, most: int | None = None) -> Scanned:
    """Read plain lines from where the source is, up to its end.

    Args:
        source: the file.
        most: entries, or other lines, beyond which nothing more is read.

    Raises:
        Malformed: a line is too long.
    """
    found = Scanned()
    while piece := source.read(_CHUNK):
        rest = source.readline(LONGEST_LINE)
        if len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
            raise Malformed(f"a line is longer than {LONGEST_LINE} bytes")
        _scan_lines((piece + rest).decode("latin-1"), found)
        if most is not None and max(found.entries, found.rejected) > most and source.read(1):
            found.whole = False
            break
    return found


def _scan_lines(text: str, found: Scanned) -> None:
    ipv4: dict[str, list[str]] = defaultdict(list)
    for dotted, prefix4, colons, prefix6, other in _LINE.findall(text):
        if dotted:
            ipv4[prefix4].append(dotted)
        elif colons:
            _scan_ipv6(colons, int(prefix6 or IPV6), found)
        else:
            found.read(other)
    for prefix, addresses in ipv4.items():
        values = array("I", b"".join(map(inet_aton, addresses)))
        if byteorder == "little":
            values.byteswap()
        found.ipv4[int(prefix or IPV4)] += values
        found.entries += len(addresses)


def _scan_ipv6(address: str, prefix: int, found: Scanned) -> None:
    try:
        value = int.from_bytes(inet_pton(AF_INET6, address))
    except OSError:
        found.reject(address)
        return
    found.entries += 1
    if value >> IPV4 == _MAPPED and prefix >= _MAPPED_PREFIX:
        found.ipv4[prefix - _MAPPED_PREFIX].append(value & _ALL4)
    else:
        found.ipv6[prefix].append(value)


def merged(found: Scanned, bits: int) -> Iterator[Range]:
    """The ranges of one family, merged. First and last are packed into one integer, which sorts fastest."""
    every = (1 << bits) - 1
    packed = list(found.ranges[bits])
    addresses: Iterable[tuple[int, Iterable[int]]] = (found.ipv4 if bits == IPV4 else found.ipv6).items()
    for prefix, values in addresses:
        packed += _packed(values, bits, every >> prefix)
    packed.sort()
    return joined((both >> bits, both & every) for both in packed)


def _packed(values: Iterable[int], bits: int, hosts: int) -> Iterable[int]:
    if hosts == 0:
        twice = (1 << bits) + 1
        return [value * twice for value in values]
    nets = ~hosts
    return [(value & nets) << bits | value | hosts for value in values]

"""Reads a plain list of a million lines: one CIDR a line, `#` and `;` comments.

Strict as `ranges.parse_cidr`, but in bulk: one regular expression takes a megabyte of lines apart, and the
system's own parsers make numbers of them. Host bits are cleared; an IPv4-mapped address is its IPv4 address.
Pure but for reading the file.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from socket import AF_INET6, inet_aton, inet_pton
from sys import byteorder
from typing import BinaryIO, Final

from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, joined

_CHUNK: Final = 1 << 20
_EXAMPLES: Final = 3
_QUOTED: Final = 60
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LINE: Final = re.compile(
    rf"^[ \t]*(?:((?:{_OCTET}\.){{3}}{_OCTET})(?:/(3[0-2]|[12]?[0-9]))?"
    r"|([0-9A-Fa-f:]{0,41}:[0-9A-Fa-f:.]{1,45})(?:/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)"
    r"[ \t\r]*(?:[#;].*)?$|(.+)",
    re.MULTILINE,
)
_MAPPED: Final = 0xFFFF
_MAPPED_PREFIX: Final = IPV6 - IPV4
_ALL4: Final = (1 << IPV4) - 1
_ALL6: Final = (1 << IPV6) - 1
_MARK: Final = "\xef\xbb\xbf"  # a byte order mark, as latin-1 reads it


@dataclass
class Scanned:
    """What was read.

    Attributes:
        ipv4: prefix length -> addresses, host bits and all.
        ipv6: prefix length -> addresses, host bits and all.
        entries: how many lines held an address or CIDR.
        rejected: how many held something else, neither blank nor a comment.
        examples: a few of those, printable.
    """

    ipv4: dict[int, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("I")))
    ipv6: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    entries: int = 0
    rejected: int = 0
    examples: list[str] = field(default_factory=list)

    def reject(self, line: str) -> None:
        """Count a line that is no address, unless it says nothing at all."""
        text = line.strip(" \t\r")
        if not text or text[0] in "#;":
            return
        self.rejected += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(ascii(text[:_QUOTED]))

    def sizes(self) -> Iterator[tuple[int, int, int]]:
        """(bits, prefix length, address) of every entry with a short prefix; there are few of them."""
        for bits, families in ((IPV4, self.ipv4), (IPV6, self.ipv6)):
            for prefix in sorted(families):
                if prefix <= bits // 2:
                    yield from ((bits, prefix, value) for value in families[prefix])


def scan(source: BinaryIO) -> Scanned:
    """Read a whole list."""
    found = Scanned()
    first = True
    while piece := source.read(_CHUNK):
        text = (piece + source.readline()).decode("latin-1")
        _take(text.removeprefix(_MARK) if first else text, found)
        first = False
    return found


def _take(text: str, found: Scanned) -> None:
    ipv4: dict[str, list[str]] = defaultdict(list)
    for dotted, prefix4, colons, prefix6, other in _LINE.findall(text):
        if dotted:
            ipv4[prefix4].append(dotted)
        elif colons:
            _take_ipv6(colons, int(prefix6 or IPV6), found)
        else:
            found.reject(other)
    for prefix, addresses in ipv4.items():
        values = array("I", b"".join(map(inet_aton, addresses)))
        if byteorder == "little":
            values.byteswap()
        found.ipv4[int(prefix or IPV4)] += values
        found.entries += len(addresses)


def _take_ipv6(address: str, prefix: int, found: Scanned) -> None:
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


def merged(addresses: dict[int, array[int]] | dict[int, list[int]], bits: int) -> Iterator[Range]:
    """The ranges of one family, merged. First and last are packed into one integer, which sorts fastest."""
    every = (1 << bits) - 1
    packed: list[int] = []
    for prefix, values in addresses.items():
        packed += _packed(values, bits, every >> prefix)
    packed.sort()
    return joined((both >> bits, both & every) for both in packed)


def _packed(values: Iterable[int], bits: int, hosts: int) -> Iterable[int]:
    if hosts == 0:
        twice = (1 << bits) + 1
        return [value * twice for value in values]
    nets = ~hosts
    return [(value & nets) << bits | value | hosts for value in values]

"""Addresses as integers: strict parsing, and arithmetic on sorted ranges.

Pure, and fast enough for a million entries: a range is a pair of integers (first, last), both inclusive, and
ranges are sorted and do not overlap unless stated otherwise.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

Range = tuple[int, int]

IPV4: Final = 32
IPV6: Final = 128
"""The widths of addresses in bits, which identify the two families."""

_CIDR: Final = re.compile(r"([0-9.]{7,15}|[0-9A-Fa-f:.]{2,45})(?:/(0|[1-9][0-9]{0,2}))?")
_MAPPED: Final = 0xFFFF  # what precedes the IPv4 address in ::ffff:0:0/96 (RFC 4291, 2.5.5.2)


class Block(NamedTuple):
    """A CIDR. `bits` is IPV4 or IPV6."""

    bits: int
    first: int
    last: int

    @property
    def range(self) -> Range:
        """All of its addresses."""
        return self.first, self.last

    @property
    def prefix(self) -> int:
        """The prefix length."""
        return self.bits - (self.last - self.first).bit_length()

    def overlaps(self, other: Block) -> bool:
        """Whether the two have an address in common."""
        return self.bits == other.bits and self.first <= other.last and other.first <= self.last

    def within(self, other: Block) -> bool:
        """Whether all of this one is part of the other."""
        return self.bits == other.bits and other.first <= self.first and self.last <= other.last


def parse_cidr(text: str) -> Block:
    """Parse "192.0.2.0/24", "2001:db8::/32", or a single address.

    Host bits are cleared, as feeds expect: "192.0.2.7/24" is "192.0.2.0/24". An IPv4-mapped address is its
    IPv4 address, because nginx treats it as such. Leading zeros, signs, blanks, zones and non-ASCII digits
    are refused, all of which `int()` or `ipaddress` accept in some form.

    Raises:
        ValueError: it is not an address or CIDR.
    """
    match = _CIDR.fullmatch(text)
    if match is None:
        raise ValueError("not an address or CIDR")
    address, length = match.groups()
    family, bits = (socket.AF_INET6, IPV6) if ":" in address else (socket.AF_INET, IPV4)
    try:
        value = int.from_bytes(socket.inet_pton(family, address))
    except OSError as error:
        raise ValueError("not an address or CIDR") from error
    prefix = bits if length is None else int(length)
    if prefix > bits:
        raise ValueError(f"the prefix is longer than {bits} bits")
    if bits == IPV6 and prefix >= IPV6 - IPV4 and value >> IPV4 == _MAPPED:
        bits, prefix, value = IPV4, prefix - (IPV6 - IPV4), value - (_MAPPED << IPV4)
    size = 1 << (bits - prefix)
    first = value & -size
    return Block(bits, first, first + size - 1)


def merge(ranges: Iterable[Range]) -> list[Range]:
    """Join ranges that overlap or touch; they may come in any order."""
    return list(joined(sorted(ranges)))


def joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Join ranges that overlap or touch; they must be sorted."""
    begin, end = 0, -2
    for first, last in ranges:
        if first > end + 1:
            if end >= 0:
                yield begin, end
            begin, end = first, last
        elif last > end:
            end = last
    if end >= 0:
        yield begin, end


def subtract(ranges: Iterable[Range], holes: Sequence[Range]) -> list[Range]:
    """What is in `ranges` and not in `holes`; both are merged."""
    return list(without(ranges, holes))


def without(ranges: Iterable[Range], holes: Sequence[Range]) -> Iterator[Range]:
    """What is in `ranges` and not in `holes`, one range at a time."""
    at, end = 0, len(holes)
    for first, last in ranges:
        while at < end and holes[at][1] < first:
            at += 1
        if at == end or holes[at][0] > last:
            yield first, last
        else:
            yield from _around(first, last, holes[at:])


def _around(begin: int, last: int, holes: Sequence[Range]) -> Iterator[Range]:
    for first_hole, last_hole in holes:
        if first_hole > last:
            break
        if first_hole > begin:
            yield begin, first_hole - 1
        begin = max(begin, last_hole + 1)
    if begin <= last:
        yield begin, last


def cidrs(bits: int, first: int, last: int) -> Iterator[str]:
    """The fewest CIDRs that cover exactly this range."""
    while first <= last:
        aligned = (first & -first).bit_length() - 1 if first else bits
        size = min(aligned, (last - first + 1).bit_length() - 1)
        yield f"{format_address(bits, first)}/{bits - size}"
        first += 1 << size


def format_address(bits: int, value: int) -> str:
    """The usual text of an address (IPv6: RFC 5952)."""
    if bits == IPV4:
        return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16))


def text_of(bits: int, first: int, last: int) -> str:
    """A range as a person writes it: a CIDR if it is one."""
    size = last - first + 1
    begin = format_address(bits, first)
    if size & (size - 1) or first % size:
        return f"{begin}-{format_address(bits, last)}"
    return f"{begin}/{bits - size.bit_length() + 1}"

"""The entries that events added: what is blocked, until when, since when, by which event and why.

Owns the file format (one tab-separated line per entry) and what add, remove and expiry do to a set of
entries. Entries may overlap: each keeps its own expiry, and their union is enforced. Pure.

What it costs to read, change and write them is what an event costs, and a node that catches up applies a
thousand of these in one commit: an entry keeps its line, and many removes are one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Final

from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, format_address, merge, parse_cidr, subtract

FILE_IPV4: Final = "blacklist/ipv4.ranges"
FILE_IPV6: Final = "blacklist/ipv6.cidrs"
"""What nginx reads of them."""
_HEADER: Final = "# CIDR\tblocked part\tuntil\tsince\tchange\treason (unix seconds; written by agentd)\n"
_WHOLE: Final = "all"
_NEVER: Final = "-"


@dataclass(frozen=True)
class Entry:
    """One CIDR that was added. Times are unix seconds.

    Attributes:
        block: the CIDR as it was added.
        parts: what is blocked of it, merged: all of it, except what was removed since.
        until: when it expires; None for never.
        since: when it was added.
        change: the ID of the event that added it.
    """

    block: Block
    parts: tuple[Range, ...]
    until: float | None
    since: float
    change: str
    reason: str = ""

    @cached_property
    def line(self) -> str:
        """As it is in the file."""
        block = self.block
        parts = (f"{_address(block, first)}-{_address(block, last)}" for first, last in self.parts)
        columns = (
            f"{_address(block, block.first)}/{block.prefix}",
            _WHOLE if self.parts == (block.range,) else ",".join(parts),
            _NEVER if self.until is None else repr(self.until),
            repr(self.since),
            word(self.change),
            word(self.reason),
        )
        return "\t".join(columns) + "\n"


Entries = dict[Block, Entry]
Holes = Mapping[int, Sequence[Range]]
"""What is to be cut out, by address width, merged."""


def holes(blocks: Iterable[Block]) -> Holes:
    """What these blocks cut out."""
    every = list(blocks)
    return {bits: merge(block.range for block in every if block.bits == bits) for bits in (IPV4, IPV6)}


def cut(entries: Entries, gone: Holes) -> Entries:
    """The entries without every address of the holes, whichever entries blocked it."""
    return {entry.block: entry for entry in _without(entries.values(), gone)}


def _without(entries: Iterable[Entry], gone: Holes) -> Iterator[Entry]:
    for entry in entries:
        block = entry.block
        ranges = gone[block.bits]
        begin = bisect_left(ranges, block.first, key=itemgetter(1))
        end = bisect_right(ranges, block.last, lo=begin, key=itemgetter(0))
        if begin == end:
            yield entry
        elif parts := subtract(entry.parts, ranges[begin:end]):
            yield replace(entry, parts=tuple(parts))


def expire(entries: Entries, now: float) -> Entries:
    """The entries that have not expired; an entry is enforced until just before its `until`.

    None was added in the future: if the clock was set back while agentd was down, an entry that says so lasts
    from now on for as long as it was to last.
    """
    return {
        block: entry if entry.since <= now else _not_after(entry, now)
        for block, entry in entries.items()
        if entry.until is None or entry.until > now
    }


def _not_after(entry: Entry, now: float) -> Entry:
    return replace(entry, since=now, until=None if entry.until is None else entry.until - entry.since + now)


def next_expiry(entries: Entries) -> float | None:
    """When the next entry expires, in unix seconds; None if none will."""
    return min((entry.until for entry in entries.values() if entry.until is not None), default=None)


def ranges(entries: Entries, bits: int) -> Iterator[Range]:
    """The blocked ranges of one address width, in no particular order and possibly overlapping."""
    return (part for block, entry in entries.items() if block.bits == bits for part in entry.parts)


def dump(entries: Entries) -> bytes:
    """The content of the file: sorted, so that equal entries make equal files."""
    return "".join([_HEADER, *(entries[block].line for block in sorted(entries))]).encode()


def load(data: bytes, damaged: list[int] | None = None) -> Entries:
    """The inverse of `dump`.

    Args:
        data: the content of the file.
        damaged: takes the numbers of the lines that cannot be read, so that the others still count.

    Raises:
        ValueError: a line is not as `dump` writes it, and `damaged` is None.
    """
    found: Entries = {}
    for number, line in enumerate(data.decode(errors="replace").split("\n"), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            entry = _entry(line)
        except ValueError:
            if damaged is None:
                raise
            damaged.append(number)
        else:
            found[entry.block] = entry
    return found


def word(text: str) -> str:
    """The text as it is in the file: without what would end its column or line, or cannot be written."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _address(block: Block, value: int) -> str:
    return format_address(block.bits, value)


def _entry(line: str) -> Entry:
    cidr, parts, until, since, change, reason = line.split("\t")
    block = parse_cidr(cidr)
    blocked = (block.range,) if parts == _WHOLE else tuple(_part(part) for part in parts.split(","))
    return Entry(
        block, blocked, None if until == _NEVER else _seconds(until), _seconds(since), change, reason
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError(f"{text} is no time")
    return seconds


def _part(text: str) -> Range:
    first, _, last = text.partition("-")
    return parse_cidr(first).first, parse_cidr(last).last

"""The entries that events made: what is blocked, until when, since when, by which event and why.

Owns the file format (one line an entry, tab-separated) and what add, remove and expiry do to a set of
entries. Entries may overlap: each keeps its own time, and what is enforced is their union. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from handlers.ip_blacklist.payload import Operation
from handlers.ip_blacklist.ranges import Block, Range, format_address, parse_cidr, subtract

_HEADER: Final = "# CIDR\tblocked part\tuntil\tsince\tchange\treason (unix seconds; written by agentd)\n"
_WHOLE: Final = "all"
_FOR_GOOD: Final = "-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One CIDR that was added. Times are unix seconds.

    Attributes:
        block: the CIDR as it was named.
        parts: what is blocked of it, merged: all, but for what was removed since.
        until: when it expires, None for never.
        since: when it was added.
        change: the ID of the event that added it.
    """

    block: Block
    parts: tuple[Range, ...]
    until: float | None
    since: float
    change: str
    reason: str = ""


Entries = dict[Block, Entry]


def apply(entries: Entries, operations: Iterable[Operation], now: float, change: str) -> Entries:
    """The entries after the operations.

    The latest `add` of the very same CIDR decides its time and reason. A `remove` lets every address of
    its CIDR through, whichever entries blocked it: of a wider entry the rest stays.
    """
    after = dict(entries)
    for operation in operations:
        block = operation.block
        if operation.verb == "remove":
            after = {entry.block: entry for entry in _without(after.values(), block)}
        else:
            until = None if operation.ttl is None else now + operation.ttl
            after[block] = Entry(block, (block.range,), until, now, change, operation.reason)
    return after


def _without(entries: Iterable[Entry], removed: Block) -> Iterator[Entry]:
    for entry in entries:
        if not entry.block.overlaps(removed):
            yield entry
        elif parts := subtract(entry.parts, [removed.range]):
            yield replace(entry, parts=tuple(parts))


def expire(entries: Entries, now: float) -> Entries:
    """Without those whose time has come; an entry is enforced before its `until`, not at it."""
    return {block: entry for block, entry in entries.items() if entry.until is None or entry.until > now}


def next_expiry(entries: Entries) -> float | None:
    """When the first entry expires, in unix seconds; None if none will."""
    return min((entry.until for entry in entries.values() if entry.until is not None), default=None)


def ranges(entries: Entries, bits: int) -> Iterator[Range]:
    """The blocked ranges of one address width, in no order, overlapping as they may."""
    return (part for block, entry in entries.items() if block.bits == bits for part in entry.parts)


def dump(entries: Entries) -> bytes:
    """As the file holds them: sorted, so that equal entries make equal files."""
    return "".join([_HEADER, *(_line(entries[block]) for block in sorted(entries))]).encode()


def load(data: bytes) -> Entries:
    """The inverse of `dump`.

    Raises:
        ValueError: a line is not as `dump` writes it.
    """
    lines = (line for line in data.decode().split("\n") if line and not line.startswith("#"))
    return {entry.block: entry for entry in map(_entry, lines)}


def _line(entry: Entry) -> str:
    block = entry.block
    parts = (f"{_address(block, first)}-{_address(block, last)}" for first, last in entry.parts)
    columns = (
        f"{_address(block, block.first)}/{block.prefix}",
        _WHOLE if entry.parts == (block.range,) else ",".join(parts),
        _FOR_GOOD if entry.until is None else repr(entry.until),
        repr(entry.since),
        entry.change,
        entry.reason,
    )
    return "\t".join(columns) + "\n"


def _address(block: Block, value: int) -> str:
    return format_address(block.bits, value)


def _entry(line: str) -> Entry:
    cidr, parts, until, since, change, reason = line.split("\t")
    block = parse_cidr(cidr)
    blocked = (block.range,) if parts == _WHOLE else tuple(_part(part) for part in parts.split(","))
    return Entry(block, blocked, None if until == _FOR_GOOD else float(until), float(since), change, reason)


def _part(text: str) -> Range:
    first, _, last = text.partition("-")
    return parse_cidr(first).first, parse_cidr(last).last

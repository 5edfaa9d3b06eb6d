"""What `agentd blacklist list` and `why` show.

Owns the shape of the answers; it stages nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agentd.handler import Context
from handlers.ip_blacklist import enforcement
from handlers.ip_blacklist.entries import FILE_IPV4, FILE_IPV6, Entries, Entry
from handlers.ip_blacklist.feeds import Feed
from handlers.ip_blacklist.lines import read, split
from handlers.ip_blacklist.lists import Loaded, path
from handlers.ip_blacklist.ranges import IPV4, Block, Range, format_address, merge

_MOST: Final = 20  # entries of one list that are quoted


def listed(entries: Entries, lists: Mapping[str, Loaded], feeds: Mapping[str, Feed]) -> dict[str, Any]:
    """All entries, and each list with its figures."""
    return {
        "entries": [_entry(entry) for _, entry in sorted(entries.items())],
        "lists": [_list(name, lists.get(name), feeds.get(name)) for name in sorted({*lists, *feeds})],
    }


def why(
    block: Block, entries: Entries, lists: Mapping[str, Loaded], context: Context, *, fixed: Sequence[Range]
) -> dict[str, Any]:
    """Whether the block, or a part of it, is blocked, and which entries and lists name it.

    The generation's files decide, in which nginx looks it up. Entries, lists and options only explain that:
    what would follow from them now may be another thing.

    Args:
        block: an address or CIDR.
        entries: those in force.
        lists: those in force.
        context: of the question.
        fixed: the exemptions of its family that the options fix, merged.
    """
    blocking = enforcement.blocking(context, block)
    added = blocking.get(FILE_IPV4 if block.bits == IPV4 else FILE_IPV6, [])
    found = [
        _entry(entry) | {"list": "entries", "in_force": _share(entry.parts, added)}
        for _, entry in sorted(entries.items())
        if entry.block.overlaps(block)
    ]
    for name, loaded in lists.items():
        found += _named(name, loaded, block, context, blocking)
    never = merge([*enforcement.exempt(context, block), *fixed])
    return {
        "address": f"{format_address(block.bits, block.first)}/{block.prefix}",
        "blocked": bool(blocking),
        "never_block": any(first <= block.first and block.last <= last for first, last in never),
        "generation": context.generation,
        "files": sorted(blocking),
        "entries": found,
    }


def _named(
    name: str, loaded: Loaded, block: Block, context: Context, blocking: Mapping[str, Sequence[Range]]
) -> Iterator[dict[str, Any]]:
    source = context.files.path(path(name, "plain"))
    for cidr, reason in _quoted(source, block) if source else ():
        yield {
            "list": name,
            "entry": cidr,
            "reason": reason,
            "change": loaded.change,
            "since": loaded.since,
            "until": None,
            "in_force": path(name, "ipv4" if block.bits == IPV4 else "ipv6") in blocking,
        }


def _quoted(source: Path, block: Block) -> Iterator[tuple[str, str]]:
    """The lines of a list that share an address with the block, each with its comment."""
    found = 0
    with source.open("rb") as lines:
        for line in lines:
            entry, comment = split(line.decode("latin-1").rstrip("\n"))
            if entry and _covers(entry, block):
                yield _printable(entry), _printable(comment)
                found += 1
                if found == _MOST:
                    return


def _covers(entry: str, block: Block) -> bool:
    try:
        named = read(entry)
    except ValueError:
        return False
    if named is None:
        return False
    bits, (first, last) = named
    return block.overlaps(Block(bits, first, last))


def _printable(latin: str) -> str:
    text = latin.encode("latin-1").decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _share(some: Iterable[Range], others: Sequence[Range]) -> bool:
    return any(first <= end and begin <= last for first, last in some for begin, end in others)


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "entry": f"{format_address(entry.block.bits, entry.block.first)}/{entry.block.prefix}",
        "reason": entry.reason,
        "change": entry.change,
        "since": entry.since,
        "until": entry.until,
    }


def _list(name: str, loaded: Loaded | None, feed: Feed | None) -> dict[str, Any]:
    return {
        "name": name,
        "reference": (loaded.reference if loaded else feed.reference if feed else "").partition("?")[0],
        "change": loaded.change if loaded else None,
        "since": loaded.since if loaded else None,
        "report": dict(loaded.report) if loaded else None,
        "overrode": list(loaded.overrode) if loaded else [],
        "removed": len(loaded.removed) if loaded else 0,
        "feed": asdict(feed) if feed else None,
    }

"""What `agentd blacklist list` and `why` tell of what is in force.

Owns the shape of the answers; it stages nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agentd.handler import Context
from handlers.ip_blacklist.entries import Entries, Entry
from handlers.ip_blacklist.feeds import Feed
from handlers.ip_blacklist.lists import Loaded, path
from handlers.ip_blacklist.lookup import overlaps
from handlers.ip_blacklist.ranges import IPV4, Block, Range, format_address, parse_cidr

_MOST: Final = 20  # entries of one list that are quoted


def listed(entries: Entries, lists: Mapping[str, Loaded], feeds: Mapping[str, Feed]) -> dict[str, Any]:
    """All entries, and each list with its figures."""
    return {
        "entries": [_entry(entry) for _, entry in sorted(entries.items())],
        "lists": [_list(name, lists.get(name), feeds.get(name)) for name in sorted({*lists, *feeds})],
    }


def why(
    block: Block, entries: Entries, lists: Mapping[str, Loaded], context: Context, *, never: Sequence[Range]
) -> dict[str, Any]:
    """Whether the block, or a part of it, is blocked, and what names it.

    Args:
        block: an address or CIDR.
        entries: those in force.
        lists: those in force.
        context: of the question.
        never: what is never blocked of its family, merged.
    """
    spared = any(first <= block.first and block.last <= last for first, last in never)
    found = [
        _entry(entry) | {"list": "entries", "in_force": not spared and _in_force(entry, block)}
        for _, entry in sorted(entries.items())
        if entry.block.overlaps(block)
    ]
    for name, loaded in lists.items():
        found += _named(name, loaded, block, context, spared=spared)
    return {
        "address": f"{format_address(block.bits, block.first)}/{block.prefix}",
        "blocked": any(one["in_force"] for one in found),
        "never_block": spared,
        "entries": found,
    }


def _named(
    name: str, loaded: Loaded, block: Block, context: Context, *, spared: bool
) -> Iterator[dict[str, Any]]:
    enforced = context.files.path(path(name, "ipv4" if block.bits == IPV4 else "ipv6"))
    source = context.files.path(path(name, "plain"))
    in_force = not spared and enforced is not None and overlaps(enforced, block)
    for cidr, reason in _quoted(source, block) if source else ():
        yield {
            "list": name,
            "entry": cidr,
            "reason": reason,
            "change": loaded.change,
            "since": loaded.since,
            "until": None,
            "in_force": in_force,
        }


def _quoted(source: Path, block: Block) -> Iterator[tuple[str, str]]:
    """The lines of a list that have an address of the block, and what they say beside it."""
    found = 0
    with source.open("rb") as lines:
        for line in lines:
            text = line.decode("utf-8", errors="replace").strip()
            cut = min((at for at in (text.find("#"), text.find(";")) if at >= 0), default=len(text))
            cidr = text[:cut].strip()
            if cidr and _covers(cidr, block):
                yield cidr, "".join(c if c.isprintable() else "?" for c in text[cut + 1 :].strip())
                found += 1
                if found == _MOST:
                    return


def _covers(cidr: str, block: Block) -> bool:
    try:
        return parse_cidr(cidr).overlaps(block)
    except ValueError:
        return False


def _in_force(entry: Entry, block: Block) -> bool:
    return any(first <= block.last and block.first <= last for first, last in entry.parts)


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

"""What of a blacklist ought to be equal on all nodes that took the same messages.

Owns what counts for that: the networks that entries block, without their times, which differ with the moment
in which a node got a message; and the lists that events loaded. One that was loaded with a digest counts with
what is left of it; without one, two nodes may have fetched different versions, so that only its reference
counts. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from handlers.ip_blacklist.entries import Entries, ranges
from handlers.ip_blacklist.lists import Loaded
from handlers.ip_blacklist.ranges import IPV4, IPV6, merge

_LENGTH: Final = 32  # hex digits
_FIGURES: Final = ("ipv4_addresses", "ipv4_ranges", "ipv6_networks", "ipv6_cidrs")


def of(entries: Entries, lists: Mapping[str, Loaded]) -> str:
    """The fingerprint, in hex digits.

    Args:
        entries: those in force.
        lists: those in force that are not fetched on schedule, by name.
    """
    counts = [
        [merge(ranges(entries, bits)) for bits in (IPV4, IPV6)],
        [[name, *_content(one)] for name, one in sorted(lists.items())],
    ]
    return hashlib.sha256(json.dumps(counts).encode()).hexdigest()[:_LENGTH]


def _content(loaded: Loaded) -> list[object]:
    if " sha256:" not in loaded.reference:
        return [loaded.reference]
    return [loaded.reference, *(loaded.report[name] for name in _FIGURES)]

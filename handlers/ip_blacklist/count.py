"""Counts the addresses that several of nginx's files cover together, each once.

Changes nothing. If the files are long it runs in the child, whose start must be quick.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handlers.ip_blacklist.outputs import union
from handlers.ip_blacklist.ranges import IPV6

COUNT: Final = "count.json"
NETWORK: Final = 64  # IPv6 is counted in /64s, the least that one customer gets


@dataclass(frozen=True, slots=True)
class CountJob:
    """What to count.

    Attributes:
        ipv4: nginx's files of IPv4 ranges; `ipv6` of IPv6 CIDRs.
        directory: where the result goes.
    """

    ipv4: Sequence[str]
    ipv6: Sequence[str]
    directory: str

    def run(self) -> None:
        """Leave the number of IPv4 addresses, and of /64s, partial ones included. Raises OSError."""
        addresses = sum(last - first + 1 for first, last in union(self.ipv4, ()))
        networks, counted = 0, -1
        for first, last in union(self.ipv6, ()):
            end = last >> (IPV6 - NETWORK)
            networks += end - max(first >> (IPV6 - NETWORK), counted + 1) + 1
            counted = end
        (Path(self.directory) / COUNT).write_text(json.dumps([addresses, networks]))

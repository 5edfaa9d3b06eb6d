"""The blacklist for other programs than nginx's `geo`: all that is enforced as one list, in their language.

    blacklist/deny.rules       `deny CIDR;` lines to include in a server or location
    blacklist/nftables.nft     one transaction: two sets of intervals, flushed and filled
    blacklist/ipset.restore    two hash:net sets, to be filled beside the ones in use
    blacklist/haproxy.acl      one CIDR per line, as `acl ... src -f` reads them

Made from nginx's files, which are sorted and merged already. It loads nothing: `loader` does that. It runs in
the child, whose start counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from handlers.ip_blacklist import acl, ipset, nftables
from handlers.ip_blacklist.geo import read_ranges
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, cidrs, joined, without

Output = Literal["deny", "nftables", "ipset", "haproxy"]

FILES: Final[dict[Output, str]] = {
    "deny": "blacklist/deny.rules",
    "nftables": "blacklist/nftables.nft",
    "ipset": "blacklist/ipset.restore",
    "haproxy": "blacklist/haproxy.acl",
}


@dataclass(frozen=True, slots=True)
class OutputsJob:
    """The outputs to write.

    Attributes:
        ipv4: nginx's files of IPv4 ranges; `ipv6` of IPv6 CIDRs.
        holes4: IPv4 ranges to cut out, merged; `holes6` likewise.
        outputs: which ones.
        directory: where they go, each under its output's name.
    """

    ipv4: Sequence[str]
    ipv6: Sequence[str]
    holes4: Sequence[Range]
    holes6: Sequence[Range]
    outputs: Sequence[Output]
    directory: str

    def run(self) -> None:
        """Write each output. Raises OSError."""
        # An address without its length, as the kernel will show it.
        ipv4 = [
            cidr.removesuffix("/32") for a, b in union(self.ipv4, self.holes4) for cidr in cidrs(IPV4, a, b)
        ]
        ipv6 = [
            cidr.removesuffix("/128") for a, b in union(self.ipv6, self.holes6) for cidr in cidrs(IPV6, a, b)
        ]
        for output in self.outputs:
            with (Path(self.directory) / output).open("w") as out:
                out.writelines(_WRITERS[output](ipv4, ipv6))


def union(files: Iterable[str], holes: Sequence[Range]) -> Iterator[Range]:
    """What nginx's files of one family cover together, merged, without the holes, which are merged."""
    return without(joined(heapq.merge(*(read_ranges(Path(file)) for file in files))), holes)


def _deny(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    return (f"deny {cidr};\n" for cidr in (*ipv4, *ipv6))


_WRITERS: Final[dict[Output, Callable[[Sequence[str], Sequence[str]], Iterator[str]]]] = {
    "deny": _deny,
    "nftables": nftables.batch,
    "ipset": ipset.batch,
    "haproxy": acl.batch,
}

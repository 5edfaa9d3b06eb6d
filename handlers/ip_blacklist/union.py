"""The blacklist for those who do not ask nginx: all that is enforced, as one list in their own language.

    blacklist/deny.rules       `deny CIDR;` lines to be included in a server or location
    blacklist/nftables.nft     one transaction: two sets of intervals, flushed and filled
    blacklist/ipset.restore    two hash:net sets, filled beside the ones in use and swapped
    blacklist/haproxy.acl      CIDRs, one a line, as `acl ... src -f` reads them

Made from nginx's files, which are sorted and merged already. It loads nothing: `loader` does that.

Sources: nft(8), ipset(8), HAProxy's configuration manual on `acl`
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, cidrs, joined, parse_cidr, without

Output = Literal["deny", "nftables", "ipset", "haproxy"]

FILES: Final[dict[Output, str]] = {
    "deny": "blacklist/deny.rules",
    "nftables": "blacklist/nftables.nft",
    "ipset": "blacklist/ipset.restore",
    "haproxy": "blacklist/haproxy.acl",
}
_ROOM: Final = 65536  # elements that an ipset has room for at least


@dataclass(frozen=True, slots=True)
class UnionJob:
    """What is to be written.

    Attributes:
        ipv4: nginx's files of IPv4 ranges; `ipv6` of IPv6 CIDRs.
        holes4: what is never blocked, merged; `holes6` likewise.
        outputs: which ones.
        directory: where they go, each under its output's name.
    """

    ipv4: Sequence[str]
    ipv6: Sequence[str]
    holes4: Sequence[Range]
    holes6: Sequence[Range]
    outputs: Sequence[Output]
    directory: str


def write_union(job: UnionJob) -> None:
    """Write each output. Raises OSError."""
    ipv4 = [cidr for a, b in _union(job.ipv4, job.holes4) for cidr in cidrs(IPV4, a, b)]
    ipv6 = [cidr for a, b in _union(job.ipv6, job.holes6) for cidr in cidrs(IPV6, a, b)]
    for output in job.outputs:
        with (Path(job.directory) / output).open("w") as out:
            out.writelines(_WRITERS[output](ipv4, ipv6))


def _union(files: Iterable[str], holes: Sequence[Range]) -> Iterator[Range]:
    return without(joined(heapq.merge(*(_read(Path(file)) for file in files))), holes)


def _read(file: Path) -> Iterator[Range]:
    with file.open(encoding="ascii") as lines:
        for line in lines:
            first, _, last = line.partition(" ")[0].partition("-")
            begin = parse_cidr(first)
            yield begin.first, parse_cidr(last).last if last else begin.last


def _deny(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    return (f"deny {cidr};\n" for cidr in (*ipv4, *ipv6))


def _haproxy(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    return (f"{cidr}\n" for cidr in (*ipv4, *ipv6))


def _nftables(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    yield "add table inet agentd\n"
    for name, kind, members in (("blocked4", "ipv4_addr", ipv4), ("blocked6", "ipv6_addr", ipv6)):
        yield f"add set inet agentd {name} {{ type {kind}; flags interval; }}\n"
        yield f"flush set inet agentd {name}\n"
        if members:
            yield f"add element inet agentd {name} {{ {', '.join(members)} }}\n"


def _ipset(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    for name, family, members in (("agentd4", "inet", ipv4), ("agentd6", "inet6", ipv6)):
        room = max(_ROOM, 1 << len(members).bit_length())
        # The set in use may have less room; after the swap it is the other one that is destroyed.
        yield f"create -exist {name} hash:net family {family} maxelem {room}\n"
        yield f"create {name}_new hash:net family {family} maxelem {room}\n"
        yield from (f"add {name}_new {cidr}\n" for cidr in members)
        yield f"swap {name} {name}_new\ndestroy {name}_new\n"


_WRITERS: Final[dict[Output, Callable[[Sequence[str], Sequence[str]], Iterator[str]]]] = {
    "deny": _deny,
    "nftables": _nftables,
    "ipset": _ipset,
    "haproxy": _haproxy,
}

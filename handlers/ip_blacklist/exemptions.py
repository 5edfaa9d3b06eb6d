"""What is never blocked, whoever asks.

A CIDR that an event names is refused; the entries of a list are cut out of what is enforced, and so is
anything that was let in before the options changed. Owns the fixed exemptions, the operator's, and those that
are only known at run time: the instances of watched services and this node's own addresses. Reads /proc and
nothing else.

/proc/self/net rather than /proc/net, which a unit with `ProcSubset=pid` hides. It needs no netlink socket,
and knows also what no interface has: addresses that a `local` route makes this node's.

Source: proc(5), and what Linux writes into fib_trie (net/ipv4/fib_trie.c), if_inet6 and ipv6_route
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from agentd.errors import TemporaryError
from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, format_address, merge, parse_cidr

_SHORTEST: Final = {
    IPV4: 8,
    IPV6: 19,
}  # no registry ever handed out a larger block
_ALWAYS: Final = (
    (parse_cidr("127.0.0.0/8"), "loopback"),
    (parse_cidr("::1"), "loopback"),
    # nginx's `geo` refuses it in a range, and looks it up for clients without an IPv4 address.
    (parse_cidr("255.255.255.255"), "the broadcast address"),
    # nginx looks a mapped client up among the IPv4 addresses, so this would block nobody.
    (Block(IPV6, 0xFFFF << 32, (0xFFFF << 32) + 0xFFFF_FFFF), "IPv4-mapped addresses: name the IPv4 ones"),
)
_PRIVATE: Final = tuple(
    parse_cidr(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "fc00::/7", "fe80::/10",
    )
)  # fmt: skip
UNROUTED: Final[list[Range]] = [parse_cidr("224.0.0.0/3").range]
"""Multicast and reserved IPv4 addresses: feeds list them as one wide prefix, and no client has one."""
NET: Final = Path("/proc/self/net")
"""Where the kernel tells about this process's network."""
_LEAF: Final = re.compile(r"\s*\|-- ([0-9.]+)\n")
_LOCAL: Final = re.compile(r"\s*/([0-9]+) host LOCAL")
_RTF_LOCAL: Final = 0x8000_0000  # linux/ipv6_route.h: the route leads to this node itself


class Exemptions:
    """The exemptions that the options of one blacklist fix.

    Args:
        never_block: addresses and CIDRs that the operator never wants blocked.
        private: whether private and link-local addresses are exempt as well (RFC 1918, 3927, 4193, 6598).
        shortest: address width -> shortest prefix length that may be added.

    Raises:
        ValueError: one of `never_block` is not an address or CIDR.
    """

    def __init__(
        self,
        never_block: Iterable[str],
        *,
        private: bool = True,
        shortest: Mapping[int, int] = _SHORTEST,
    ) -> None:
        named = [(parse_cidr(text), f"{text}, which is listed in never_block") for text in never_block]
        self._never = (*_ALWAYS, *named)
        self._private = _PRIVATE if private else ()
        self._shortest = shortest

    def refuses(self, block: Block) -> str | None:
        """Why this block may not be added, or None if it may."""
        if block.prefix == 0:
            return "would block every address"
        if block.prefix < (shortest := self._shortest[block.bits]):
            return f"the prefix is shorter than /{shortest} (shortest_ipv{4 if block.bits == IPV4 else 6})"
        for never, label in self._never:
            if block.overlaps(never):
                return f"would block {label}"
        if any(block.within(private) for private in self._private):
            return "would block private addresses; `never_block_private: false` permits it"
        return None

    def ranges(self, bits: int) -> list[Range]:
        """The exempt addresses of this width, merged."""
        blocks = [*(block for block, _ in self._never), *self._private]
        return merge(block.range for block in blocks if block.bits == bits)


def current_ranges(addresses: Iterable[str], node: Iterable[str]) -> dict[int, list[Range]]:
    """What is exempt right now: address width -> ranges, merged.

    Args:
        addresses: of service instances; one registered under a host name is left out.
        node: this node's own, as `own_addresses` returns them.
    """
    blocks = [*_parsed(addresses), *map(parse_cidr, node)]
    return {bits: merge(block.range for block in blocks if block.bits == bits) for bits in (IPV4, IPV6)}


def own_addresses() -> list[str]:
    """Every address and CIDR that the kernel takes for this node's, sorted, loopback included.

    A node that blocks itself cuts off its own health checks, and one that takes its address over from another
    is to notice: ask again from time to time.

    Raises:
        TemporaryError: the kernel does not tell. That is no reason to take it for none.
    """
    try:
        found = {*_ipv4(NET / "fib_trie"), *_ipv6(NET)}
    except (OSError, ValueError) as error:
        raise TemporaryError(
            f"the addresses of this node cannot be read: {error}; make /proc readable to agentd, or name them"
            " in `never_block` and set `never_block_node: false`"
        ) from error
    return [_text(block) for block in sorted(found)]


def _ipv4(trie: Path) -> Iterator[Block]:
    """Leaves with a route of type LOCAL: addresses, and CIDRs that are routed to this node as a whole."""
    with trie.open() as lines:
        leaf = ""
        for line in lines:  # one at a time: a router has a million
            if match := _LEAF.fullmatch(line):
                leaf = match[1]
            elif match := _LOCAL.match(line):
                yield from _not_all(f"{leaf}/{match[1]}")


def _ipv6(net: Path) -> Iterator[Block]:
    """Addresses of interfaces, the tentative ones too, and CIDRs that are routed to this node as a whole."""
    try:
        with (net / "if_inet6").open() as addresses:
            yield from (parse_cidr(_with_colons(line)) for line in addresses)
        with (net / "ipv6_route").open() as routes:
            for line in routes:
                target, length, *_, flags, _ = line.split()
                if int(flags, 16) & _RTF_LOCAL:
                    yield from _not_all(f"{_with_colons(target)}/{int(length, 16)}")
    except FileNotFoundError:  # this kernel has no IPv6: its files of IPv4 were there
        return


def _not_all(cidr: str) -> Iterator[Block]:
    """The CIDR; nothing if it is that of a transparent proxy, which takes every address for its own."""
    block = parse_cidr(cidr)
    if block.prefix >= _SHORTEST[block.bits]:
        yield block


def _parsed(addresses: Iterable[str]) -> Iterator[Block]:
    for address in addresses:
        try:
            yield parse_cidr(str(ip_address(address)))
        except ValueError:
            continue


def _with_colons(digits: str) -> str:
    return ":".join(digits[at : at + 4] for at in range(0, 32, 4))


def _text(block: Block) -> str:
    return f"{format_address(block.bits, block.first)}/{block.prefix}"

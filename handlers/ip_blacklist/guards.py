"""What may never be blocked, whoever asks: each guard with a message of its own.

A CIDR that a person names is refused; what a list names is taken out of what is enforced (`never`), and so is
what was let in before the options changed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, merge, parse_cidr

_SHORTEST: Final = {
    IPV4: 8,
    IPV6: 19,
}  # a /8 and a /19 are the largest blocks that registries ever handed out
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
"""Multicast and reserved IPv4 addresses: feeds name them in one wide prefix, and no client has one."""


class Guards:
    """The guards of one blacklist.

    Args:
        never_block: addresses and CIDRs that the operator never wants blocked.
        private: whether private and link-local addresses are not blocked either (RFC 1918, 3927, 4193, 6598).

    Raises:
        ValueError: one of `never_block` is not an address or CIDR.
    """

    def __init__(self, never_block: Iterable[str], *, private: bool = True) -> None:
        named = [(parse_cidr(text), f"{text}, which never_block names") for text in never_block]
        self._never = (*_ALWAYS, *named)
        self._private = _PRIVATE if private else ()

    def refuses(self, block: Block) -> str | None:
        """Why this block may not be added, or None if it may."""
        if block.prefix == 0:
            return "would block every address"
        if block.prefix < (shortest := _SHORTEST[block.bits]):
            return f"the prefix is shorter than /{shortest}: too many addresses"
        for never, label in self._never:
            if block.overlaps(never):
                return f"would block {label}"
        if any(block.within(private) for private in self._private):
            return "would block private addresses; `never_block_private: false` permits it"
        return None

    def never(self, bits: int) -> list[Range]:
        """The addresses of this width that are never enforced."""
        blocks = [*(block for block, _ in self._never), *self._private]
        return merge(block.range for block in blocks if block.bits == bits)

"""Which hosts a server may be on: an IP address, and not one that leads back into the machine that asks.

Whoever can register a service chooses its address. Through loopback, a load balancer would serve to the
public what listens for its own machine only, such as Consul's API; so the operator must allow such addresses
(the networks).
Pure, and light to import.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "an unspecified"),
        ("127.0.0.0/8", "a loopback"),
        ("169.254.0.0/16", "a link-local"),
        ("224.0.0.0/4", "a multicast"),
        ("255.255.255.255/32", "a broadcast"),
        ("240.0.0.0/4", "a reserved"),
        ("::/128", "an unspecified"),
        ("::1/128", "a loopback"),
        ("::/96", "an IPv4-in-IPv6"),
        ("::ffff:0:0/96", "an IPv4-in-IPv6"),
        ("::ffff:0:0:0/96", "an IPv4-in-IPv6"),
        ("fe80::/10", "a link-local"),
        ("ff00::/8", "a multicast"),
    )
)
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_LAST_32_BITS: Final = 0xFFFFFFFF


def parse_network(text: str) -> Network:
    """Read a CIDR, or a single address. Raises ValueError: it is none, or has host bits set."""
    network = ipaddress.ip_network(text)
    if isinstance(network.network_address, ipaddress.IPv6Address) and network.network_address.scope_id:
        raise ValueError(f"{text!r} has a zone")
    return network


def parse_host(text: str) -> Address:
    """Read an IP address.

    Raises:
        ValueError: a host name, an address with a zone, or what only some programs take for an address, such
            as 127.1, 0x7f.1 and 2130706433.
    """
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not an IP address") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise ValueError(f"{text[:64]!r} is not an IP address: it has a zone")
    return parsed


def check_host(text: str, networks: Iterable[Network], option: str = "the option `networks`") -> Address:
    """Read the address of a server.

    Args:
        text: as it was registered.
        networks: where servers may be; none for anywhere but special addresses.
        option: what the operator calls them.

    Raises:
        ValueError: it is no address, or not one where a server may be.
    """
    parsed, networks = parse_host(text), tuple(networks)
    if any(parsed in network for network in networks):
        return parsed
    network, kind = _special(parsed)
    if network is not None:
        others = "" if networks else ", with all other networks that have servers"
        raise ValueError(
            f"{parsed} is {kind} address: if a server is there, name {network} in {option}{others}"
        )
    if networks:
        raise ValueError(f"{parsed} is outside {option}")
    return parsed


def _special(address: Address) -> tuple[Network | None, str]:
    """The network of special addresses that it is in, and what they are; None if it is none of them."""
    for special, kind in _SPECIAL:
        if address in special:
            return special, kind
    for carried in _carried(address):
        network, kind = _special(carried)
        if network is not None:  # a gateway of this machine would unwrap it
            return ipaddress.ip_network(address), f"the IPv6 form of {kind}"
    return None, ""


def _carried(address: Address) -> Iterable[Address]:
    """The IPv4 addresses that a translator or a tunnel would take it for (RFC 6052, 3056, 4380)."""
    if not isinstance(address, ipaddress.IPv6Address):
        return ()
    if any(address in network for network in _NAT64):
        return (ipaddress.IPv4Address(int(address) & _LAST_32_BITS),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()

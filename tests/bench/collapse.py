"""What agentd's engine is held against: the standard library's `ipaddress`, used as its manual shows.

Reads a plain list, merges it with `collapse_addresses`, and writes the same two files:
`python -m tests.bench.collapse LIST IPV4 IPV6`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from pathlib import Path

_MAPPED = IPv6Network("::ffff:0:0/96")


def main() -> None:
    """Do it."""
    source, ipv4, ipv6 = map(Path, sys.argv[1:])
    networks = list(_networks(source))
    merged4 = collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
    merged6 = collapse_addresses(one for one in networks if isinstance(one, IPv6Network))
    with ipv4.open("w") as out:
        out.writelines(f"{one[0]}-{one[-1]} 1;\n" for one in merged4)
    with ipv6.open("w") as out:
        out.writelines(f"{one} 1;\n" for one in merged6)


def _networks(source: Path) -> Iterator[IPv4Network | IPv6Network]:
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            text = line.partition("#")[0].partition(";")[0].strip()
            try:
                network = ip_network(text, strict=False)
            except ValueError:
                continue
            if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
                address = int(network.network_address) & 0xFFFF_FFFF
                yield IPv4Network((address, network.prefixlen - 96))
            else:
                yield network


if __name__ == "__main__":
    main()

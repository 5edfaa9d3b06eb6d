"""The addresses of this node, as the kernel knows them: a node that blocks itself cuts its own checks off.

Owns reading them from /proc, without a program and without asking a name server.

Source: proc(5), /proc/net/fib_trie and /proc/net/if_inet6
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from handlers.ip_blacklist.ranges import Block, parse_cidr

_LOCAL: Final = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


def own_addresses(net: Path = Path("/proc/net")) -> list[Block]:
    """Every address of every interface, sorted; loopback ones included. What cannot be read has none."""
    ipv4 = set(_LOCAL.findall(_read(net / "fib_trie")))
    ipv6 = {_spelt(line[:32]) for line in _read(net / "if_inet6").splitlines()}
    return sorted(parse_cidr(address) for address in ipv4 | ipv6)


def _spelt(digits: str) -> str:
    return ":".join(digits[at : at + 4] for at in range(0, 32, 4))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no IPv6 in this kernel, or a container without /proc/net
        return ""

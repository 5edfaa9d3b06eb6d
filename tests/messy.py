"""A seeded generator of blacklists as messy as real feeds are, for tests and benches.

The same seed makes the same bytes. `junk` is what no reader may take for an address.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from typing import Final

JUNK: Final = (
    "1.2.3.4/ 8",
    "+8",
    "٣.1.1.1",
    "fe80::1%eth0",
    "01.2.3.4",
    "1.2.3.256",
    "1.2.3.4/33",
    "1.2.3.4/08",
    "1.2.3.4/255.0.255.0",
    "1.2.3.4/0.0.0.255",
    "1.2.3.4/0.0.0.0",
    "0.0.0.0 ads.example",
    "127.0.0.1 localhost",
    "1.2.3.9-1.2.3.4",
    "1.2.3.4-2001:db8::1",
    "1.2.3.0/24-1.2.4.0/24",
    "1.2.3.4-9",
    "1.2.3.4 1.2.3.9",
    "1.2.3.0 1.2.3.255 25",
    "1.2.3.4,1.2.3.9",
    "1.2.3.4 bad",
    "1.2.3.4 /24",
    "1.2.3.4//24",
    "005.188.206.026",
    "fe80::1%eth0-fe80::2",
    "2001:db8::/ffff:ffff::",
    "1.2.3.4:80",
    "http://1.2.3.4/",
    "localhost",
    "<html>",
    "1.2.3",
    "12345::",
    "2001:db8::/129",
    "0x7f.1.1.1",
)
"""Lines that must be rejected."""

_COMMENTS: Final = (" # scanner", "\t; SBL12345", "#no blank", " ; two # marks", "  ")


def messy(lines: int, *, seed: int = 1, ipv6: float = 0.2, junk: float = 0.01) -> bytes:
    """A plain list.

    Args:
        lines: how many lines, comments and blank ones included.
        seed: of the random numbers.
        ipv6: share of IPv6 among the addresses.
        junk: share of lines that are no address.
    """
    rng = random.Random(seed)
    return "".join(_lines(rng, lines, ipv6, junk)).encode()


def _lines(rng: random.Random, lines: int, ipv6: float, junk: float) -> Iterator[str]:
    recent: list[str] = []
    for _ in range(lines):
        roll = rng.random()
        if roll < junk:
            text = rng.choice(JUNK)
        elif roll < junk + 0.02:
            text = rng.choice(("", "# a comment", "; another", "   ", "#"))
        elif roll < junk + 0.07 and recent:
            text = rng.choice(recent)  # a duplicate
        else:
            text = _ipv6(rng) if rng.random() < ipv6 else _ipv4(rng)
            recent = [*recent[-50:], text]
        text += rng.choice(_COMMENTS) if rng.random() < 0.1 else ""
        text = "\t" + text if rng.random() < 0.01 else text
        yield text + ("\r\n" if rng.random() < 0.1 else "\n")


def _ipv4(rng: random.Random) -> str:
    value = rng.randrange(1 << 24, 224 << 24)
    address = str(ipaddress.IPv4Address(value))
    roll = rng.random()
    if roll < 0.8:
        return address
    if roll < 0.82:
        return f"::ffff:{address}"
    return f"{address}/{rng.choice((16, 20, 22, 24, 24, 24, 25, 28, 30, 31, 32))}"  # host bits set


def _ipv6(rng: random.Random) -> str:
    value = (0x2000 << 112) + rng.getrandbits(125)
    if rng.random() < 0.5:
        value = value >> 64 << 64
    address = str(ipaddress.IPv6Address(value))
    address = address.upper() if rng.random() < 0.1 else address
    return address if rng.random() < 0.5 else f"{address}/{rng.choice((32, 48, 48, 56, 64, 64, 128))}"

"""How values are written in the YAML file and on the command line: durations, sizes, addresses, paths.

Text to value and nothing else: no I/O, and no import that a command would have to wait for.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final

STATE: Final = "/var/lib/agentd"
TREE: Final = "/etc/nginx/agentd"
STATUS: Final = "127.0.0.1:9521"
KEEP: Final = (2, 10_000)
"""Defaults, and the limits of `tree.keep`: for the models, and for commands that start without them."""

_LAST_PORT: Final = 65535
_PORT: Final = re.compile("[0-9]{1,5}")
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION: Final = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_SECONDS: Final = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_LONGEST: Final = 100 * 365 * 86400.0


def parse_duration(value: object) -> float:
    """Turn "55s", "1h30m", "250ms" or a plain number of seconds into seconds.

    Units come in the order d, h, m, s, ms, each at most once.

    Raises:
        ValueError: not a duration, negative, or longer than a hundred years.
    """
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds <= _LONGEST:  # nor a number that is none
        raise ValueError("must be a duration, such as 55s, 1h30m or 250ms")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) <= _LONGEST else None
    if not isinstance(value, str) or not value.isascii() or not value:
        return None
    if found := _DURATION.fullmatch(value):
        return sum(float(number) * unit for number, unit in zip(found.groups("0"), _SECONDS, strict=True))
    return float(value) if value.isdigit() else None


_UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_SIZE: Final = re.compile(r"([0-9]{1,12}) ?([kmg]?)(?:i?b)?")


def parse_size(value: object) -> int:
    """Turn 1048576, "512k", "100M" or "2GiB" into bytes; the units are powers of 1,024.

    Raises:
        ValueError: not a size, or negative.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.lower()) if isinstance(value, str) and value.isascii() else None
    if not found:
        raise ValueError("must be a size, such as 512k, 100M or 2G")
    return int(found[1]) * _UNITS[found[2]]


def parse_listening(address: str) -> tuple[str, int]:
    """Split "127.0.0.1:9521", "[::1]:9521" or "localhost:9521" into address and port (0: any free one).

    Raises:
        ValueError: not an address and a port.
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = "127.0.0.1" if host == "localhost" else host[1:-1] if bracketed else host
    try:
        sound = "%" not in name and (":" in str(ipaddress.ip_address(name))) == bracketed
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must be an address and a port, such as 127.0.0.1:9521 or [::1]:9521")
    if not (_PORT.fullmatch(port) and int(port) <= _LAST_PORT):
        raise ValueError("must end with a port from 0 to 65535, as in 127.0.0.1:9521")
    return name, int(port)


def is_loopback(host: str) -> bool:
    """Whether that address, as `parse_listening` returns it, is reached from this node alone."""
    return ipaddress.ip_address(host).is_loopback


def asked_at(host: str) -> str:
    """Where a program on this node reaches who listens there: at loopback, if that is every address."""
    if not ipaddress.ip_address(host).is_unspecified:
        return host
    return "::1" if ":" in host else "127.0.0.1"


_FLEET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def is_fleet_name(name: str) -> bool:
    """Whether it may be part of a key in Consul's KV store, as the name of a fleet or of a kept event."""
    return _FLEET_NAME.fullmatch(name) is not None


def parse_fleet_name(name: str) -> str:
    """A name for which `is_fleet_name` holds.

    Raises:
        ValueError: it has other characters than Consul accepts in a key, or is too long.
    """
    if not is_fleet_name(name):
        raise ValueError(
            "must have 1 to 64 letters, digits, - _ . and begin with a letter or digit: it is part of a key"
        )
    return name


def absolute(path: Path) -> Path:
    """A path that does not depend on the working directory. Raises ValueError."""
    if not path.is_absolute():
        raise ValueError("the path must be absolute")
    return path

"""The two that keep sets in the kernel, ipset and nftables, and the rights that this takes.

Owns what they have in common, and the sentence that says which right is missing and how to grant it: agentd's
unit does not have them by itself. Tries nothing that changes anything.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agentd.errors import TemporaryError
from handlers.ip_blacklist import ipset, nftables
from handlers.ip_blacklist.program import ask

if TYPE_CHECKING:
    from agentd.handler import Context


class KernelSets(Protocol):
    """A module that loads sets by a program, and reads them back; see `ipset`."""

    @property
    def SETS(self) -> Mapping[str, str]:  # noqa: N802 (a constant of the module)
        """The names of its sets, for IPv4 and IPv6, and of which kind each is."""

    def load(self, program: str, file: Path, context: Context) -> None:
        """Load all sets from a file of the generation."""

    def expected(self, file: Path) -> dict[str, set[str]]:
        """What the file puts into each set."""

    def present(self, program: str, name: str) -> set[str] | None:
        """What a set has, or None if there is none."""

    def holds(self, program: str, name: str, address: str) -> bool:
        """Whether a set has an address."""


KERNEL: Final[Mapping[str, KernelSets]] = {"ipset": ipset, "nftables": nftables}
"""By the name of the output."""
_NET_ADMIN: Final = 12  # linux/capability.h
_NETFILTER: Final = 12  # linux/netlink.h: NETLINK_NETFILTER
_UNIT: Final = "agentd.service"
_STATUS: Final = Path("/proc/self/status")
_CURE: Final = (
    "run `agentd example systemd/agentd.service.d/kernel-sets.conf --to"
    " /etc/systemd/system/agentd.service.d`, `systemctl daemon-reload` and `systemctl restart agentd`"
)


def lacking() -> str:
    """What this process lacks to load the kernel's sets, and the cure; "" if it lacks nothing."""
    return _sentence("agentd runs", capability=_has_capability(), netlink=_has_netlink())


def withheld() -> str:
    """What agentd's unit withholds, and the cure; "" if it grants both, or systemd knows no such unit."""
    settings = "LoadState,CapabilityBoundingSet,RestrictAddressFamilies"
    try:
        done = ask(["systemctl", "show", _UNIT, f"--property={settings}"])
    except TemporaryError:
        return ""  # no systemd
    unit = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if unit.get("LoadState") != "loaded":
        return ""
    families = unit.get("RestrictAddressFamilies", "")
    return _sentence(
        f"{_UNIT} runs agentd",
        capability="cap_net_admin" in unit.get("CapabilityBoundingSet", ""),
        netlink=not families or ("AF_NETLINK" in families) != families.startswith("~"),
    )


def _sentence(who: str, *, capability: bool, netlink: bool) -> str:
    lacks = [] if capability else ["the capability CAP_NET_ADMIN"]
    if not netlink:
        lacks.append("sockets of the family AF_NETLINK (RestrictAddressFamilies)")
    return f"{who} without {' and '.join(lacks)}: {_CURE}" if lacks else ""


def _has_capability() -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", _STATUS.read_text(), re.MULTILINE)
    return match is None or bool(int(match[1], 16) >> _NET_ADMIN & 1)


def _has_netlink() -> bool:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER).close()
    except OSError:
        return False
    return True

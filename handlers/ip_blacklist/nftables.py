"""nftables: the interval sets blocked4 and blocked6 of the table `inet agentd`, replaced in one transaction.

Owns the batch in the tree, how it gets into the kernel, and how the kernel's sets are read back. The table's
chains and rules are the operator's. Imports nothing of agentd but its errors: the child uses it as well.

Source: nft(8), libnftables-json(5), linux/netfilter/nf_tables.h
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import TemporaryError
from handlers.ip_blacklist.program import ask, failure

if TYPE_CHECKING:
    from agentd.handler import Context

SETS: Final = {"blocked4": "ipv4_addr", "blocked6": "ipv6_addr"}
"""The names of the sets, and the type of each."""
_TABLE: Final = "inet agentd"
_LISTING: Final = 1_048_576  # bytes: of the table without the elements of its sets
_MISSING: Final = "No such file or directory"
_NETFILTER: Final = 12  # NETLINK_NETFILTER
_GET_GENERATION: Final = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_NEW_GENERATION: Final = 10 << 8 | 15  # NFT_MSG_NEWGEN
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_FAMILY: Final = struct.pack("!BBH", 0, 0, 0)  # struct nfgenmsg
_FIRST_ATTRIBUTE: Final = _HEADER.size + len(_FAMILY) + 4  # NFTA_GEN_ID, behind length and type
_SECONDS: Final = 5.0


def batch(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    """The transaction: both sets are there, and have these elements and no other."""
    yield f"add table {_TABLE}\n"
    for (name, kind), members in zip(SETS.items(), (ipv4, ipv6), strict=True):
        yield f"add set {_TABLE} {name} {{ type {kind}; flags interval; }}\n"
        yield f"flush set {_TABLE} {name}\n"
        if members:
            yield f"add element {_TABLE} {name} {{ {', '.join(members)} }}\n"


def load(program: str, file: Path, context: Context) -> None:
    """Run the transaction; a set of another kind that no rule uses makes way.

    Raises:
        TemporaryError: the kernel refuses, or a set of the same name is of another kind and in use.
    """
    try:
        context.run([program, "-f", str(file)])
    except TemporaryError:
        others = _others(program, context)
        if not others:
            raise
        for name, (what, kind) in others.items():
            done = context.run([program, f"delete {what} {_TABLE} {name}"], check=False)
            if done.returncode:
                raise TemporaryError(
                    f"nftables {name} is in use and was made by hand as {kind}, so {SETS[name]} with flags"
                    " interval cannot take its place: delete the rules that use it, and run"
                    f" `nft delete {what} {_TABLE} {name}`"
                ) from None
        context.run([program, "-f", str(file)])


def _others(program: str, context: Context) -> dict[str, tuple[str, str]]:
    """What has a name of ours and is of another kind: its name -> "set" or "map", and its kind."""
    done = context.run(
        [program, "-j", "-t", f"list table {_TABLE}"], check=False, keep=_LISTING, read_only=True
    )
    found: dict[str, tuple[str, str]] = {}
    for one in _documents(done.output.decode(errors="replace")):
        for what in one.keys() & {"set", "map"}:
            made = one[what]
            name, flags = made["name"], made.get("flags", [])
            plain = flags == ["interval"] and not made.keys() & {"stmt", "timeout"}
            if name in SETS and not (what == "set" and made["type"] == SETS[name] and plain):
                found[name] = what, f"{made['type']}, flags {' '.join(flags) or 'none'}"
    return found


def _documents(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)["nftables"]
    except (ValueError, KeyError, TypeError):
        return []  # an error message
    if not isinstance(found, list):
        return []
    return [
        one for one in found if isinstance(one, dict) and all(isinstance(each, dict) for each in one.values())
    ]


def expected(file: Path) -> dict[str, set[str]]:
    """What the batch puts into each set. Raises OSError."""
    found: dict[str, set[str]] = {name: set() for name in SETS}
    begin = f"add element {_TABLE} "
    with file.open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith(begin):
                name, _, members = line[len(begin) :].partition(" { ")
                found[name] = set(members.removesuffix(" }\n").split(", "))
    return found


def present(program: str, name: str) -> set[str] | None:
    """What a set of the kernel has; None if there is none of its kind.

    Raises:
        TemporaryError: it cannot be read.
    """
    command = f"list set {_TABLE} {name}"
    done = ask([program, "-j", command])
    if done.returncode:
        if _MISSING in done.stderr:
            return None
        raise failure(done)
    made: dict[str, Any] = next((one["set"] for one in _documents(done.stdout) if "set" in one), {})
    if made.get("type") != SETS[name] or "interval" not in made.get("flags", []):
        return None
    try:
        return {_text(one) for one in made.get("elem", [])}
    except (KeyError, TypeError) as error:
        raise TemporaryError(
            f"`{program} -j {command}` prints an element that is not known: {error}"
        ) from error


def _text(element: str | dict[str, Any]) -> str:
    """An element as the batch writes it, or "FIRST-LAST"; one that ends by itself is another one."""
    if isinstance(element, str):
        return element
    if "prefix" in element:
        return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    if "range" in element:
        return "-".join(element["range"])
    inner = element["elem"]
    return _text(inner["val"]) + (" timeout" if inner.keys() & {"timeout", "expires"} else "")


def revision() -> int | None:
    """The kernel's count of changes to any table of this network; None if it does not tell.

    To read a long interval set takes the kernel seconds; while this is the same, no set has changed.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
            kernel.settimeout(_SECONDS)
            kernel.bind((0, 0))
            kernel.send(_HEADER.pack(_HEADER.size + len(_FAMILY), _GET_GENERATION, 1, 1, 0) + _FAMILY)
            answer = kernel.recv(4096)
            _, kind, *_ = _HEADER.unpack_from(answer)
            found: int = struct.unpack_from("!I", answer, _FIRST_ATTRIBUTE)[0]
    except (OSError, struct.error):
        return None
    return found if kind == _NEW_GENERATION else None


def holds(program: str, name: str, address: str) -> bool:
    """Whether a set has an element for an address.

    Raises:
        TemporaryError: it cannot be asked.
    """
    command = f"get element {_TABLE} {name} {{ {address} }}"
    done = ask([program, command])
    if done.returncode and _MISSING not in done.stderr:
        raise failure(done)
    return done.returncode == 0

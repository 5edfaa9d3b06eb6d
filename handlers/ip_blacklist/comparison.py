"""Compares what the kernel's sets or HAProxy's ACL hold with a file of the generation.

Changes nothing. It runs in the child, since a long set takes the memory of two lists while it is compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from agentd.errors import TemporaryError
from handlers.ip_blacklist import acl
from handlers.ip_blacklist.kernel import KERNEL
from handlers.ip_blacklist.ranges import Range, merge, parse_cidr

Loadable = Literal["nftables", "ipset", "haproxy"]

_ABSENT: Final = "there is no such set of the right kind"


@dataclass(frozen=True, slots=True)
class Compared:
    """One set, or the ACL.

    Attributes:
        part: which one, such as "ipset agentd4".
        fault: how it differs from the file; "" if it does not.
        entries: how many it has.
    """

    part: str
    fault: str
    entries: int


@dataclass(frozen=True, slots=True)
class CompareJob:
    """What to compare.

    Attributes:
        output: whose file it is.
        file: of the generation.
        place: the program that reads the kernel's sets, or HAProxy's socket.
        acl: HAProxy's name of the ACL.
    """

    output: Loadable
    file: str
    place: str
    acl: str = ""

    def run(self) -> None:
        """Print what `read` reads. Raises OSError."""
        try:
            found: object = [asdict(one) for one in self.compared()]
        except TemporaryError as error:
            found = {"error": str(error)}
        json.dump(found, sys.stdout)

    def compared(self) -> Iterable[Compared]:
        """Every set, or the ACL.

        Raises:
            OSError: the file cannot be read.
            TemporaryError: a set, or the ACL, cannot be read.
        """
        file = Path(self.file)
        if self.output == "haproxy":
            yield compare(part("haproxy", self.acl), acl.expected(file), acl.present(self.place, self.acl))
            return
        sets = KERNEL[self.output]
        for name, members in sets.expected(file).items():
            yield compare(part(self.output, name), members, sets.present(self.place, name))


def part(output: Loadable, name: str) -> str:
    """How a set, or the ACL, is called where a person reads it."""
    return f"{'HAProxy' if output == 'haproxy' else output} {name}"


def read(printed: bytes) -> list[Compared]:
    """What `run` printed.

    Raises:
        TemporaryError: it could not compare, and says why.
    """
    found = json.loads(printed)
    if isinstance(found, dict):
        raise TemporaryError(found["error"])
    return [Compared(**one) for one in found]


def compare(part: str, expected: set[str], present: set[str] | None) -> Compared:
    """Whether entries are the same, or at least their addresses: two CIDRs may stand for a wider one."""
    if present is None:
        return Compared(part, _ABSENT, 0)
    if expected == present or ((found := _merged(present)) is not None and found == _merged(expected)):
        return Compared(part, "", len(present))
    lacking, foreign = expected - present, present - expected
    faults = []
    if lacking:
        faults.append(f"{len(lacking)} of {len(expected)} entries are missing, such as {min(lacking)}")
    if foreign:
        faults.append(f"{len(foreign)} entries are not the generation's, such as {min(foreign)}")
    return Compared(part, ", and ".join(faults), len(present))


def _merged(entries: Iterable[str]) -> dict[int, list[Range]] | None:
    """The addresses of entries: width -> ranges; None if one of them is more than a CIDR or a range."""
    found: dict[int, list[Range]] = {}
    for entry in entries:
        first, _, last = entry.partition("-")
        try:
            begin = parse_cidr(first)
            end = parse_cidr(last) if last else begin
        except ValueError:
            return None
        found.setdefault(begin.bits, []).append((begin.first, end.last))
    return {bits: merge(ranges) for bits, ranges in found.items()}

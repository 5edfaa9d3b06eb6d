"""Compiles a list: from what its publisher serves to what nginx reads.

Owns what a list becomes, and the figures by which guards judge it. It judges nothing, and touches no file but
those of its job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self, TypeVar

from handlers.ip_blacklist import formats, render
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, format_address, without
from handlers.ip_blacklist.scan import Scanned, merged, scan

PLAIN: Final = "plain"
IPV4_RANGES: Final = "ipv4.ranges"
IPV6_CIDRS: Final = "ipv6.cidrs"
REPORT: Final = "report.json"
_HEAD: Final = 4096
_NETWORK: Final = 64  # IPv6 is counted in /64s: one is what one customer has at least
_EXAMPLES: Final = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be compiled.

    Attributes:
        source: the file as it was served, unpacked.
        directory: where the results go.
        form: its format; None: found out.
        holes4: IPv4 ranges that are never blocked, merged; `holes6` likewise.
        shortest: the shortest prefix that an entry may have, for IPv4 and IPv6.
        exempt: IPv4 ranges without clients, within which an entry may be as wide as it wants.
    """

    source: str
    directory: str
    form: formats.Format | None
    holes4: Sequence[Range]
    holes6: Sequence[Range]
    shortest: tuple[int, int]
    exempt: Sequence[Range] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Attributes:
        form: the format that it had.
        entries: lines that held an address or CIDR.
        rejected: lines that held something else; `examples` quotes a few.
        declared: how many entries the source says it has; None if it does not.
        malformed: what is wrong with it as a whole, "" if nothing is.
        wide: entries with too short a prefix; `widest` quotes a few.
        ipv4_addresses: how many addresses are enforced.
        ipv6_networks: how many /64s are, those of which only a part is included.
        ipv4_ranges: lines of the file for nginx; `ipv6_cidrs` likewise.
    """

    form: formats.Format
    entries: int = 0
    rejected: int = 0
    skipped: int = 0
    declared: int | None = None
    malformed: str = ""
    wide: int = 0
    ipv4_addresses: int = 0
    ipv6_networks: int = 0
    ipv4_ranges: int = 0
    ipv6_cidrs: int = 0
    examples: Sequence[str] = ()
    widest: Sequence[str] = ()

    def write(self, directory: Path) -> None:
        """Write it beside the files."""
        (directory / REPORT).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """What `write` wrote."""
        return cls(**json.loads((directory / REPORT).read_text()))


@dataclass
class _Sum:
    """Counts what passes by."""

    ranges: int = 0
    addresses: int = 0
    lines: int = field(default=0)

    def over(self, ranges: Iterable[Range], shift: int) -> Iterable[Range]:
        """The ranges, counted in units of 2**shift addresses."""
        for first, last in ranges:
            self.addresses += (last >> shift) - (first >> shift) + 1
            yield first, last

    def writing(self, lines: Iterable[_T]) -> Iterable[_T]:
        """The lines, counted."""
        for line in lines:
            self.lines += 1
            yield line


def compile_list(job: Job) -> Report:
    """Write `plain` (unless the source is plain), `ipv4.ranges` and `ipv6.cidrs` into the directory.

    Raises:
        OSError: a file cannot be read or written.
    """
    source, directory = Path(job.source), Path(job.directory)
    with source.open("rb") as file:
        form = job.form or formats.detect(file.read(_HEAD))
    declared, skipped = None, 0
    if form != "plain":
        try:
            made = formats.plain(source.read_bytes(), form)
        except formats.Malformed as error:
            return Report(form, malformed=str(error))
        declared, skipped = made.declared, made.skipped
        if made.text is not None:
            source = directory / PLAIN
            source.write_bytes(made.text)
    with source.open("rb") as file:
        found = scan(file)
    wide = _wide(found, job)
    ipv4, ipv6 = _Sum(), _Sum()
    left4 = ipv4.over(without(merged(found.ipv4, IPV4), job.holes4), 0)
    left6 = ipv6.over(without(merged(found.ipv6, IPV6), job.holes6), IPV6 - _NETWORK)
    with (directory / IPV4_RANGES).open("w") as out:
        out.writelines(ipv4.writing(render.geo_ranges(left4, many=True)))
    with (directory / IPV6_CIDRS).open("w") as out:
        out.writelines(ipv6.writing(render.geo_cidrs(left6)))
    return Report(
        form,
        entries=found.entries,
        rejected=found.rejected,
        skipped=skipped,
        declared=declared,
        wide=len(wide),
        ipv4_addresses=ipv4.addresses,
        ipv6_networks=ipv6.addresses,
        ipv4_ranges=ipv4.lines,
        ipv6_cidrs=ipv6.lines,
        examples=found.examples,
        widest=wide[:_EXAMPLES],
    )


def _wide(found: Scanned, job: Job) -> list[str]:
    """The entries whose prefix is too short, but for those that hit nobody."""
    shortest = dict(zip((IPV4, IPV6), job.shortest, strict=True))
    harmless = {IPV4: [*job.holes4, *job.exempt], IPV6: job.holes6}
    wide = []
    for bits, prefix, value in found.sizes():
        size = 1 << (bits - prefix)
        first = value & -size
        inside = any(begin <= first and first + size - 1 <= end for begin, end in harmless[bits])
        if prefix < shortest[bits] and not inside:
            wide.append(f"{format_address(bits, first)}/{prefix}")
    return wide

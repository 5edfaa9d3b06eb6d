"""Compiles a list: from what its publisher serves to what nginx reads.

Owns the files that a list becomes, and the figures by which the guards judge it. It judges nothing itself,
and touches no files but those of its job. Imports nothing of agentd: it runs in the child, whose start
counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Self, TypeVar

from handlers.ip_blacklist import documents, formats, geo
from handlers.ip_blacklist.documents import Converted, Malformed
from handlers.ip_blacklist.formats import Format, Scanned, merged, scan
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, text_of, without

PLAIN: Final = "plain"
IPV4_RANGES: Final = "ipv4.ranges"
IPV6_CIDRS: Final = "ipv6.cidrs"
REPORT: Final = "report.json"
_MANY: Final = 50_000  # entries; none of those lists is compiled in the daemon (`child`)
_NETWORK: Final = 64  # IPv6 is counted in /64s, the least that one customer gets
_EXAMPLES: Final = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CompileJob:
    """A list to compile.

    Attributes:
        source: the file as it was served, uncompressed.
        directory: where the results go.
        form: its format; None to detect it.
        holes4: IPv4 ranges to cut out, merged; `holes6` likewise.
        shortest: the shortest prefix that an entry may have, for IPv4 and IPv6.
        unrouted: IPv4 ranges without clients, in which an entry may be as wide as it likes.
        most: entries, or CIDRs of IPv6 that ranges become, beyond which it ends; None for no limit.
    """

    source: str
    directory: str
    form: Format | None
    holes4: Sequence[Range]
    holes6: Sequence[Range]
    shortest: tuple[int, int]
    unrouted: Sequence[Range] = ()
    most: int | None = None

    def run(self) -> None:
        """Compile it, and leave the report in the directory."""
        compile_list(self).write(Path(self.directory))


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a compiled list.

    Attributes:
        form: its format.
        entries: lines with an address, CIDR or range.
        rejected: lines with something else; `examples` quotes a few.
        skipped: records that name no address to block.
        declared: how many entries the source says it has; None if it does not say.
        malformed: what is wrong with it as a whole, "" if nothing is.
        wide: entries whose prefix is too short; `widest` quotes a few.
        ipv4_addresses: number of addresses enforced.
        ipv6_networks: number of /64s enforced, partial ones included.
        ipv4_ranges: lines of the file for nginx; `ipv6_cidrs` likewise.
        whole: whether all of it was read and written; if not, its files are not complete.
    """

    form: Format
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
    whole: bool = True

    def write(self, directory: Path) -> None:
        """Write it beside the files."""
        (directory / REPORT).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """What `write` wrote."""
        return cls(**json.loads((directory / REPORT).read_text()))


@dataclass
class _Sum:
    """Counts what passes through."""

    addresses: int = 0
    lines: int = 0

    def over(self, ranges: Iterable[Range], shift: int) -> Iterable[Range]:
        """The ranges, counted in units of 2**shift addresses."""
        for first, last in ranges:
            self.addresses += (last >> shift) - (first >> shift) + 1
            yield first, last

    def writing(self, lines: Iterable[_T], most: int | None = None) -> Iterable[_T]:
        """The lines, counted."""
        for line in lines:
            self.lines += 1
            yield line
            if most is not None and self.lines > most:
                raise _EnoughError


class _EnoughError(Exception):
    """More entries, or lines, than are wanted."""


def compile_list(job: CompileJob) -> Report:
    """Write `plain` (unless the source is plain), `ipv4.ranges` and `ipv6.cidrs` into the directory.

    Raises:
        OSError: a file cannot be read or written.
    """
    with Path(job.source).open("rb") as file:
        form = job.form or formats.document(file)
        try:
            if form == "spamhaus" or form == "crowdsec":  # noqa: PLR1714 (so that mypy sees which are left)
                return _compile_document(job, form, file)
            header = formats.header(file)
            form = form or ("plain" if header.declared is None else "firehol")
            if form == "firehol" and header.declared is None:
                raise Malformed("its header has no `# Entries : N`")  # noqa: TRY301 (as the others)
            file.seek(header.size)
            return _compile(job, scan(file, job.most), form, header.declared if form == "firehol" else None)
        except Malformed as error:
            return Report(form or "plain", malformed=str(error))


def _compile_document(job: CompileJob, form: documents.Document, file: BinaryIO) -> Report:
    count = 0
    converted = Converted()
    whole = True

    def write(line: str) -> None:
        nonlocal count
        out.write(f"{line}\n")
        count += 1
        if job.most is not None and count > job.most:
            raise _EnoughError

    file.seek(0)
    with (Path(job.directory) / PLAIN).open("w", encoding="utf-8") as out:
        try:
            converted = documents.convert(file, form, write)
        except _EnoughError:
            whole = False
    with (Path(job.directory) / PLAIN).open("rb") as made:
        found = scan(made)
    found.whole = whole
    return _compile(job, found, form, converted.declared, converted.skipped)


def _compile(job: CompileJob, found: Scanned, form: Format, declared: int | None, skipped: int = 0) -> Report:
    wide = _wide(found, job)
    widest = list(islice(wide, _EXAMPLES))
    report = Report(
        form,
        entries=found.entries,
        rejected=found.rejected,
        skipped=skipped,
        declared=declared,
        wide=len(widest) + sum(1 for _ in wide),
        examples=found.examples,
        widest=widest,
        whole=found.whole,
    )
    return _written(job, found, report) if found.whole else report


def _written(job: CompileJob, found: Scanned, report: Report) -> Report:
    """Write the files for nginx; their figures are added.

    A range of IPv6 addresses becomes up to 252 CIDRs, so a short list could become an endless file.
    """
    directory = Path(job.directory)
    ipv4, ipv6 = _Sum(), _Sum()
    left4 = ipv4.over(without(merged(found, IPV4), job.holes4), 0)
    left6 = ipv6.over(without(merged(found, IPV6), job.holes6), IPV6 - _NETWORK)
    with (directory / IPV4_RANGES).open("w") as out:
        out.writelines(ipv4.writing(geo.range_lines(left4, many=found.entries > _MANY)))
    with (directory / IPV6_CIDRS).open("w") as out:
        try:
            out.writelines(ipv6.writing(geo.cidr_lines(left6), job.most))
        except _EnoughError:
            report = replace(report, whole=False)
    return replace(
        report,
        ipv4_addresses=ipv4.addresses,
        ipv6_networks=ipv6.addresses,
        ipv4_ranges=ipv4.lines,
        ipv6_cidrs=ipv6.lines,
    )


def _wide(found: Scanned, job: CompileJob) -> Iterator[str]:
    """The entries with too many addresses, except those that affect nobody."""
    harmless = {IPV4: [*job.holes4, *job.unrouted], IPV6: job.holes6}
    for bits, shortest in zip((IPV4, IPV6), job.shortest, strict=True):
        for first, last in found.blocks(bits, shortest):
            if not any(begin <= first and last <= end for begin, end in harmless[bits]):
                yield text_of(bits, first, last)

"""nginx's `geo` files: written, read back and searched, and the include that combines them.

IPv4 is written as ranges, IPv6 as CIDRs. Ranges load five times faster than CIDRs and take a fraction of the
memory, but nginx supports them for IPv4 only, and rejects overlapping ones: what comes in here is merged.

Source: https://nginx.org/en/docs/http/ngx_http_geo_module.html
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from handlers.ip_blacklist.ranges import IPV6, Block, Range, cidrs, parse_cidr

_REMEMBERED: Final = 4_096
_EXACT: Final = 24  # longer strings outgrow a bucket of nginx's hash; a regular expression is slower


class Geo(NamedTuple):
    """One `geo` block.

    Attributes:
        name: the end of its variable's name.
        file: what it includes, as nginx names it.
        ranges: whether the file contains ranges rather than CIDRs.
        never: whether it lists exemptions rather than blocked addresses.
    """

    name: str
    file: str
    ranges: bool
    never: bool = False


def range_lines(ranges: Iterable[Range], *, many: bool = False, value: str = "1") -> Iterator[str]:
    """The lines of a `geo` with `ranges`, from merged IPv4 ranges.

    Args:
        ranges: merged, ascending.
        many: whether to build a table of 5 MB first, which makes a million addresses three times faster; the
            daemon, with its short lists, must not.
        value: what nginx's variable is for these addresses.
    """
    half = [f"{high}.{low}" for high in range(256) for low in range(256)].__getitem__ if many else _half
    for a, b in ranges:
        yield f"{half(a >> 16)}.{half(a & 65535)}-{half(b >> 16)}.{half(b & 65535)} {value};\n"


def few_range_lines(ranges: Sequence[Range]) -> Iterator[str]:
    """The same for ranges that come again and again, nearly the same: up to `_REMEMBERED` lines are kept."""
    return map(_range_line, ranges) if len(ranges) <= _REMEMBERED else range_lines(ranges)


@lru_cache(_REMEMBERED)
def _range_line(one: Range) -> str:
    return "".join(range_lines([one]))


def cidr_lines(ranges: Iterable[Range], *, value: str = "1") -> Iterator[str]:
    """The lines of a `geo` without `ranges`, from merged IPv6 ranges."""
    return (f"{cidr} {value};\n" for first, last in ranges for cidr in cidrs(IPV6, first, last))


def read_ranges(file: Path) -> Iterator[Range]:
    """The ranges of a file, in its order. Raises OSError."""
    with file.open(encoding="ascii") as lines:
        yield from map(_range, lines)


def overlaps(file: Path, block: Block) -> bool:
    """Whether a sorted file shares an address with the block; as `within`."""
    return any(True for _ in within(file, block))


def within(file: Path, block: Block) -> Iterator[Range]:
    """What a sorted file has of a block, which must be of the same family: merged, ascending.

    By bisection: of a million lines it reads 20 to find the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file.
    """
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        if size == 0:
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            opened.seek(_first(lines, size, block))
            for line in opened:
                first, last = _range(line.decode("ascii"))
                if first > block.last:
                    return
                yield max(first, block.first), min(last, block.last)


def include(prefix: str, geos: Sequence[Geo]) -> bytes:
    """The include for `http {}`; it defines `$PREFIX_blocked`, 1 for a blocked client and 0 for any other.

    Each list has separate variables, so that a change to one leaves the files of all others alone. A variable
    is empty for an address that its list does not contain. nginx evaluates a variable only when it is used,
    so exemptions are looked up only for an address that some list contains.
    """
    blocks = "".join(_block(prefix, geo) for geo in geos)
    never, lists = ([geo for geo in geos if geo.never is which] for which in (True, False))
    return f"""{blocks}map "{_joined(prefix, never)}" ${prefix}_blockable {{
    default 0;
    "" 1;
}}
map "{_joined(prefix, lists)}" ${prefix}_blocked {{
    default 0;
{_matches(prefix, len(lists))}}}
""".encode()


def _first(lines: mmap.mmap, size: int, block: Block) -> int:
    """Where the first line begins whose range ends in the block or after it."""
    low, high = 0, size  # both at the beginning of a line
    while low < high:
        start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = lines.find(b"\n", start) + 1 or size
        if _range(lines[start:end].decode("ascii"))[1] < block.first:
            low = end
        else:
            high = start
    return low


def _range(line: str) -> Range:
    first, _, last = line.partition(" ")[0].partition("-")
    begin = parse_cidr(first)
    return begin.first, parse_cidr(last).last if last else begin.last


def _half(value: int) -> str:
    """The text of half an IPv4 address."""
    return f"{value >> 8}.{value & 255}"


def _joined(prefix: str, geos: Iterable[Geo]) -> str:
    return "".join(f"${prefix}_{geo.name}" for geo in geos)


def _matches(prefix: str, lists: int) -> str:
    """What the joined variables can be for a listed client: a 1 for every list that contains it."""
    if lists > _EXACT:
        return f"    ~^1 ${prefix}_blockable;\n"
    return "".join(f'    "{"1" * many}" ${prefix}_blockable;\n' for many in range(1, lists + 1))


def _block(prefix: str, geo: Geo) -> str:
    ranges = "    ranges;\n" if geo.ranges else ""
    return f'geo ${prefix}_{geo.name} {{\n{ranges}    default "";\n    include {geo.file};\n}}\n'

"""The blacklist as nginx reads it: `geo` with ranges for IPv4, with CIDRs for IPv6, and a `map` over all.

Ranges load five times faster than CIDRs and take a fraction of the memory, but nginx knows them for IPv4
only, and calls overlapping ones an error: what comes in here is merged. Pure.

Source: https://nginx.org/en/docs/http/ngx_http_geo_module.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from handlers.ip_blacklist.ranges import IPV6, Range, cidrs

_EXACT: Final = 24  # longer strings outgrow a bucket of nginx's hash; a regular expression is slower


class Geo(NamedTuple):
    """One `geo` block: the end of its variable's name, how nginx names its file, and what it is about."""

    name: str
    file: str
    ranges: bool
    never: bool = False


def geo_ranges(ranges: Iterable[Range], *, many: bool = False) -> Iterator[str]:
    """The lines of a `geo` with `ranges`, from merged IPv4 ranges.

    Args:
        ranges: merged, ascending.
        many: whether it pays to make a table of 5 MB first; the daemon's own, short lists must not.
    """
    half = [_half(value) for value in range(65536)].__getitem__ if many else _half
    for a, b in ranges:
        yield f"{half(a >> 16)}.{half(a & 65535)}-{half(b >> 16)}.{half(b & 65535)} 1;\n"


def geo_cidrs(ranges: Iterable[Range]) -> Iterator[str]:
    """The lines of a `geo` without `ranges`, from merged IPv6 ranges."""
    return (f"{cidr} 1;\n" for first, last in ranges for cidr in cidrs(IPV6, first, last))


def _half(value: int) -> str:
    """The text of half an IPv4 address; with a table of all, a million addresses take a third of the time."""
    return f"{value >> 8}.{value & 255}"


def configuration(prefix: str, geos: Sequence[Geo]) -> bytes:
    """The include for `http {}`; it defines `$PREFIX_blocked`, 1 for a blocked client and 0 for any other.

    Each list has variables of its own, so that a change of one leaves the files of all others as they are.
    A variable is empty for an address that its list does not name. Whether an address is never blocked is
    looked up only if a list names it: nginx works out a variable when it needs it.
    """
    blocks = "".join(_geo(prefix, geo) for geo in geos)
    never, lists = ([geo for geo in geos if geo.never is which] for which in (True, False))
    return f"""{blocks}map "{_joined(prefix, never)}" ${prefix}_blockable {{
    default 0;
    "" 1;
}}
map "{_joined(prefix, lists)}" ${prefix}_blocked {{
    default 0;
{_matches(prefix, len(lists))}}}
""".encode()


def _joined(prefix: str, geos: Iterable[Geo]) -> str:
    return "".join(f"${prefix}_{geo.name}" for geo in geos)


def _matches(prefix: str, lists: int) -> str:
    """What the variables may be for a client that is named: a 1 for every list that does."""
    if lists > _EXACT:
        return f"    ~^1 ${prefix}_blockable;\n"
    return "".join(f'    "{"1" * many}" ${prefix}_blockable;\n' for many in range(1, lists + 1))


def _geo(prefix: str, geo: Geo) -> str:
    ranges = "    ranges;\n" if geo.ranges else ""
    return f'geo ${prefix}_{geo.name} {{\n{ranges}    default "";\n    include {geo.file};\n}}\n'

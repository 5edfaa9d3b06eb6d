"""The blacklist as nginx reads it: `geo` with ranges for IPv4, with CIDRs for IPv6, and a `map` over both.

Ranges load five times faster than CIDRs and take a fraction of the memory, but nginx knows them for IPv4
only, and calls overlapping ones an error: what comes in here is merged. Pure.

Source: https://nginx.org/en/docs/http/ngx_http_geo_module.html
"""

from __future__ import annotations

from collections.abc import Iterable

from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, cidrs, format_address


def geo_ranges(ranges: Iterable[Range]) -> bytes:
    """The include of a `geo` with `ranges`, from merged IPv4 ranges."""
    lines = (f"{format_address(IPV4, first)}-{format_address(IPV4, last)} 1;\n" for first, last in ranges)
    return "".join(lines).encode()


def geo_cidrs(ranges: Iterable[Range]) -> bytes:
    """The include of a `geo` without `ranges`, from merged IPv6 ranges."""
    lines = (f"{cidr} 1;\n" for first, last in ranges for cidr in cidrs(IPV6, first, last))
    return "".join(lines).encode()


def configuration(prefix: str, ipv4: str, ipv6: str) -> bytes:
    """The include for `http {}`; it defines `$PREFIX_blocked`, 1 for a blocked client and 0 for any other.

    Args:
        prefix: how the variables' names begin.
        ipv4: how nginx names the file of `geo_ranges`.
        ipv6: how nginx names the file of `geo_cidrs`.
    """
    return f"""\
geo ${prefix}_v4 {{
    ranges;
    default 0;
    include {ipv4};
}}
geo ${prefix}_v6 {{
    default 0;
    include {ipv6};
}}
map "${prefix}_v4${prefix}_v6" ${prefix}_blocked {{
    default 0;
    "10" 1;
    "01" 1;
}}
""".encode()

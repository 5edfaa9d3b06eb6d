"""One line of a list that is not JSON: which addresses it names, however its publisher writes them.

    192.0.2.1                  192.0.2.0/24               192.0.2.0/255.255.255.0
    192.0.2.0-192.0.2.255      2001:db8::1 - 2001:db8::9
    192.0.2.1 9                followed by numbers, dates and times only
    "192.0.2.1","anything"     the first column of CSV
    192.0.2.0 192.0.2.255 24 4155 ...              DShield's table
    ExitAddress 192.0.2.1 2026-01-31 00:12:03      Tor's exit nodes
    add NAME 192.0.2.1                             what `ipset save` prints

A comment begins with `#`, `;` or `//`. Whatever else follows an address makes the line something else: a
hosts file (`0.0.0.0 name`) does not name addresses to block. Pure; a line is text as latin-1 decodes it, and
what it takes to read it grows with its length alone.

Sources: https://www.dshield.org/block.txt, https://check.torproject.org/exit-addresses, ipset(8)
"""

from __future__ import annotations

import re
from typing import Final

from handlers.ip_blacklist.ranges import IPV4, Block, Range, parse_cidr

_LONGEST: Final = 4096
_ALL4: Final = (1 << IPV4) - 1
_BLANK: Final = re.compile("[ \t\r]+")
# Blanks in UTF-8 (no-break, thin, ideographic; a byte order mark between two files) and in latin-1.
_BLANKS: Final = re.compile(
    "(?:[ \t\r\xa0]|\xc2\xa0|\xe2\x80[\x80-\x8f\xaf]|\xe2\x81[\x9f\xa0]|\xe3\x80\x80|\xef\xbb\xbf)+"
)
_COMMENT: Final = re.compile(r"[#;]|(?:^|(?<= ))//")
_DASH: Final = re.compile(" ?(?:-|\xe2\x80\x93) ?")
_TAG: Final = re.compile(r"(?:(ExitNode|Published|LastStatus|create)|ExitAddress|add [!-~]{1,31}) ")
"""What begins a line of Tor's or ipset's; the first few name no address."""
_FIGURE: Final = re.compile(
    r"[0-9]{1,20}(?:\.[0-9]{1,20})?%?|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9:.]{4,20}Z?)?|[0-9]{2}:[0-9]{2}:[0-9]{2}"
)
_NAMES: Final = frozenset({
    "address", "cidr", "cidr_block", "dst_ip", "ip", "ip_address", "ip_range", "ipaddress", "ips", "netblock",
    "network", "prefix", "range", "source_ip", "src_ip", "start", "subnet",
})  # fmt: skip

Named = tuple[int, Range]
"""What a line names: the width of its addresses, the first and the last one."""


def split(line: str) -> tuple[str, str]:
    """A line as entry and comment, either of which may be empty; blanks are single spaces."""
    text = (_BLANK if line.isascii() else _BLANKS).sub(" ", line).strip(" ")
    found = _COMMENT.search(text)
    return (text, "") if found is None else (text[: found.start()].rstrip(" "), text[found.end() :].strip())


def names_columns(entry: str) -> bool:
    """Whether it is the head of a table whose first column contains addresses."""
    return re.split("[, ]", entry, maxsplit=1)[0].strip("\"'").lower() in _NAMES


def read(entry: str) -> Named | None:
    """What an entry names; None for one that is part of a known format and names nothing.

    Raises:
        ValueError: it is not an address, a CIDR, or a range.
    """
    if len(entry) > _LONGEST:
        raise ValueError("too long for an address")
    tag = _TAG.match(entry)
    if tag and tag[1]:
        return None
    text = _first_column(entry[tag.end() :] if tag else entry)
    head, *columns = (_DASH.sub("-", text) if " " in text or not text.isascii() else text).split(" ")
    if all(map(_FIGURE.fullmatch, columns)):
        return _named(head)
    if len(columns) == 1:
        return _named(f"{head}/{columns[0]}") if "." in columns[0] else _refuse(entry)
    return _row(head, columns)


def _first_column(text: str) -> str:
    """The first column of CSV, or all of it."""
    first, comma, rest = text.partition(",")
    if comma and _is_address(rest.partition(",")[0]):
        raise ValueError("two addresses in a line")  # a range, or source and target: nobody knows
    first = first.strip(" ")
    return first[1:-1] if first[:1] in {'"', "'"} and first[-1:] == first[0] else first


def _is_address(text: str) -> bool:
    try:
        parse_cidr(text.strip(" \"'"))
    except ValueError:
        return False
    return True


def _row(head: str, columns: list[str]) -> Named:
    """A row of DShield's table: first address, last address, prefix length; they must agree."""
    whole = parse_cidr(f"{head}/{columns[1]}")
    if (_address(head), _address(columns[0])) != ((whole.bits, whole.first), (whole.bits, whole.last)):
        raise ValueError("first address, last address and prefix length do not agree")
    return whole.bits, whole.range


def _named(text: str) -> Named:
    if "-" in text:
        first, _, last = text.partition("-")
        (bits, begin), (others, end) = _address(first), _address(last)
        if bits != others or begin > end:
            raise ValueError("the range ends before it begins")
        return bits, (begin, end)
    block = _block(text)
    return block.bits, block.range


def _block(text: str) -> Block:
    address, _, mask = text.partition("/")
    if "." not in mask or ":" in address:
        return parse_cidr(text)
    hosts = _address(mask)[1] ^ _ALL4
    if hosts & (hosts + 1) or hosts == _ALL4:
        raise ValueError("not a netmask")
    return parse_cidr(f"{address}/{IPV4 - hosts.bit_length()}")


def _address(text: str) -> tuple[int, int]:
    if "/" in text:
        raise ValueError("not an address")
    block = parse_cidr(text)
    return block.bits, block.first


def _refuse(entry: str) -> Named:
    raise ValueError(f"not an address: {entry[:60]!r}")

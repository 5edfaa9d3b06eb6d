"""Looks a block up in a sorted file of ranges as nginx reads it, by bisection: 20 lines of a million."""

from __future__ import annotations

import mmap
from pathlib import Path

from handlers.ip_blacklist.ranges import Block, Range, parse_cidr


def overlaps(file: Path, block: Block) -> bool:
    """Whether the file, of one family, has an address of the block, which is of the same.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        if size == 0:
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            return _overlaps(lines, size, block)


def _overlaps(lines: mmap.mmap, size: int, block: Block) -> bool:
    """Find the last range that begins at the block's end or before; only that one can reach into it."""
    low, high = 0, size  # both at the beginning of a line
    while low < high:
        start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = lines.find(b"\n", start) + 1 or size
        first, last = _range(lines[start:end])
        if first > block.last:
            high = start
        elif last >= block.first:
            return True
        else:
            low = end
    return False


def _range(line: bytes) -> Range:
    first, _, last = line.decode("ascii").partition(" ")[0].partition("-")
    begin = parse_cidr(first)
    return begin.first, parse_cidr(last).last if last else begin.last

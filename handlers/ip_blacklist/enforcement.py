"""What is enforced in the end: nginx's include that joins entries and lists, the exemptions, the outputs.

Owns `blacklist.conf`, the files of exemptions and the outputs' files in the tree. Which addresses entries and
lists name is theirs to say.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from agentd.handler import Context
from handlers.ip_blacklist import child, geo
from handlers.ip_blacklist.entries import FILE_IPV4, FILE_IPV6
from handlers.ip_blacklist.exemptions import Exemptions
from handlers.ip_blacklist.geo import Geo, within
from handlers.ip_blacklist.guards import Guarded
from handlers.ip_blacklist.lists import MODE, Loaded, path
from handlers.ip_blacklist.options import BlacklistOptions
from handlers.ip_blacklist.outputs import FILES, Output, OutputsJob
from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, merge, subtract

_NEVER: Final = "blacklist/never."
_NEVER_IPV4: Final = f"{_NEVER}ipv4"
_NEVER_IPV6: Final = f"{_NEVER}ipv6"
_INCLUDE: Final = "blacklist/blacklist.conf"
_DENY: Final = "deny_lines"
"""In the store: how many there are, or may be at most before they are written again."""


def stage(
    context: Context,
    options: BlacklistOptions,
    exemptions: Exemptions,
    never: Mapping[int, Sequence[Range]],
    lists: Mapping[str, Loaded],
) -> None:
    """Stage everything that joins the entries' files and the lists'.

    Args:
        context: of the attempt.
        options: of the blacklist.
        exemptions: those that the options fix; they are cut out of entries and lists already.
        never: what else is exempt now, by address width, merged. nginx looks it up, so that a service whose
            instances change does not have every list compiled again.
        lists: those in force.

    Raises:
        Guarded: there would be more `deny` lines than `most_deny`.
    """
    files = context.files
    # nginx looks up every IPv6 client as 255.255.255.255 among IPv4 ranges; no node has that address.
    files.write(_NEVER_IPV4, _encoded(geo.range_lines(never[IPV4], value="n")), MODE)
    files.write(_NEVER_IPV6, _encoded(geo.cidr_lines(never[IPV6], value="n")), MODE)
    files.write(_INCLUDE, geo.include(options.prefix, _geos(context, lists)))
    every = {bits: merge([*never[bits], *exemptions.ranges(bits)]) for bits in never}
    _stage_outputs(context, options, every, lists)


def stage_entries(context: Context, blocked: Mapping[int, Sequence[Range]]) -> None:
    """Stage the entries' files for nginx, by address width, merged."""
    context.files.write(FILE_IPV4, _encoded(geo.few_range_lines(blocked[IPV4])), MODE)
    context.files.write(FILE_IPV6, _encoded(geo.cidr_lines(blocked[IPV6])), MODE)


def denies_fit(context: Context, options: BlacklistOptions, more: float, holes: int) -> bool:
    """Note that blocks are added or removed, until `stage` counts the `deny` lines.

    Args:
        context: of the attempt.
        options: of the blacklist.
        more: the number of blocks; infinite if it is not known.
        holes: the number of exempt ranges that may lie in them.

    Returns:
        Whether there are certainly not more than `most_deny`. What is left of a block, or of one that it is
        cut out of, is at most one line for each of its bits and holes.
    """
    if "deny" not in options.outputs:
        return True
    count = context.store.get(_DENY, math.inf) + more * IPV6 * (1 + holes)
    if count > options.most_deny:
        return False
    context.store[_DENY] = count
    return True


def forget_denies(context: Context) -> None:
    """What is exempt has changed: how many `deny` lines there are shows when they are written again."""
    context.store.pop(_DENY, None)


def blocking(context: Context, block: Block) -> dict[str, list[Range]]:
    """What nginx blocks of a block, as the generation's files say: path -> ranges, without the exempt ones.

    Only files that the generation's include names count, and of each only those that block something.
    """
    never = exempt(context, block)
    found = {
        name: subtract(within(file, block), never)
        for name, file in _looked_up(context, block, "blacklist/")
        if not name.startswith(_NEVER)
    }
    return {name: ranges for name, ranges in found.items() if ranges}


def exempt(context: Context, block: Block) -> list[Range]:
    """What the generation's files exempt of a block, merged."""
    return merge(chain.from_iterable(within(file, block) for _, file in _looked_up(context, block, _NEVER)))


def _looked_up(context: Context, block: Block, prefix: str) -> Iterator[tuple[str, Path]]:
    """The files of the block's family that nginx's include names and whose paths begin with `prefix`."""
    named = set(re.findall(r"include (\S+);", (context.files.read(_INCLUDE) or b"").decode()))
    family = "ipv4" if block.bits == IPV4 else "ipv6"
    for name in context.files.paths(prefix):
        if family in name.rpartition("/")[2].split(".") and context.files.reference(name) in named:
            file = context.files.path(name)
            if file is not None:
                yield name, file


def _geos(context: Context, lists: Mapping[str, Loaded]) -> list[Geo]:
    files = context.files
    geos = [
        Geo("never_v4", files.reference(_NEVER_IPV4), ranges=True, never=True),
        Geo("never_v6", files.reference(_NEVER_IPV6), ranges=False, never=True),
        Geo("v4", files.reference(FILE_IPV4), ranges=True),
    ]
    if files.read(FILE_IPV6):  # every variable costs each request some time
        geos.append(Geo("v6", files.reference(FILE_IPV6), ranges=False))
    for name, loaded in lists.items():
        if loaded.report["ipv4_ranges"]:
            geos.append(Geo(f"list_{name}_v4", files.reference(path(name, "ipv4")), ranges=True))
        if loaded.report["ipv6_cidrs"]:
            geos.append(Geo(f"list_{name}_v6", files.reference(path(name, "ipv6")), ranges=False))
    return geos


def _stage_outputs(
    context: Context,
    options: BlacklistOptions,
    exempt: Mapping[int, Sequence[Range]],
    lists: Mapping[str, Loaded],
) -> None:
    outputs: list[Output] = sorted(set(options.outputs))
    for output in FILES.keys() - set(outputs):
        if context.files.path(FILES[output]) is not None:
            context.files.remove(FILES[output])
    if not outputs:
        return
    ipv4, ipv6 = (
        [
            file
            for name in (entries, *(path(name, part) for name in lists))
            if (file := context.files.path(name))
        ]
        for entries, part in ((FILE_IPV4, "ipv4"), (FILE_IPV6, "ipv6"))
    )
    with tempfile.TemporaryDirectory(prefix="agentd-blacklist-") as made:
        job = OutputsJob([*map(str, ipv4)], [*map(str, ipv6)], exempt[IPV4], exempt[IPV6], outputs, made)
        child.run(context, job, [*ipv4, *ipv6], options.limits.limits)
        for output in outputs:
            context.files.write_file(FILES[output], Path(made) / output, MODE)
    if "deny" in outputs:
        _check_deny(context, options.most_deny)


def _check_deny(context: Context, most: int) -> None:
    file = context.files.path(FILES["deny"])
    if file is None:
        return
    with file.open("rb") as lines:
        count = sum(1 for _ in lines)
    if count > most:
        raise Guarded(f"{count} `deny` lines are more than most_deny, {most}; use nginx's geo", ("entries",))
    context.store[_DENY] = count


def _encoded(lines: Iterable[str]) -> bytes:
    return "".join(lines).encode()

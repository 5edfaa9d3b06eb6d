"""Stages what `union` writes, and takes away what is not wanted any more."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from agentd.handler import Context
from handlers.ip_blacklist.limits import Guarded
from handlers.ip_blacklist.lists import is_small, run_child
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range
from handlers.ip_blacklist.union import FILES, Output, UnionJob, write_union

_MODE: Final = 0o640


def stage(
    context: Context,
    outputs: Collection[Output],
    ipv4: Sequence[str],
    ipv6: Sequence[str],
    never: Mapping[int, Sequence[Range]],
) -> None:
    """Write the outputs anew from nginx's files, which are named as they are in the tree."""
    for output in FILES.keys() - set(outputs):
        if context.files.path(FILES[output]) is not None:
            context.files.remove(FILES[output])
    if not outputs:
        return
    with tempfile.TemporaryDirectory(prefix="agentd-blacklist-") as made:
        files4, files6 = ([str(p) for f in many if (p := context.files.path(f))] for many in (ipv4, ipv6))
        job = UnionJob(files4, files6, never[IPV4], never[IPV6], sorted(set(outputs)), made)
        if is_small(context, map(Path, (*files4, *files6))):
            write_union(job)
        else:
            run_child(context, "union", job)
        for output in sorted(set(outputs)):
            context.files.write_file(FILES[output], Path(made) / output, _MODE)


def check_deny(context: Context, outputs: Collection[Output], most: int) -> None:
    """Raise Guarded if there are more `deny` lines than nginx should be given."""
    file = context.files.path(FILES["deny"]) if "deny" in outputs else None
    if file is None:
        return
    with file.open("rb") as lines:
        count = sum(1 for _ in lines)
    if count > most:
        raise Guarded(f"{count} `deny` lines are more than most_deny, {most}; use nginx's geo", ("entries",))

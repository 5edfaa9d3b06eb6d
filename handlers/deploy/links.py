"""Where the symbolic links of an archive lead, followed as the kernel follows them.

A name that looks harmless can lead out through another link (`x -> a/..` where `a -> b/c` is one), so each
link is followed step by step through all the others. Nothing here touches a disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from handlers.deploy.members import Parts, RefusedArchiveError

_MOST_HOPS: Final = 40
"""Links that the kernel follows in one path (MAXSYMLINKS) before it gives up."""


def check_links(links: Mapping[Parts, str]) -> None:
    """Check all symbolic links of a tree: path -> target.

    Raises:
        RefusedArchiveError: one leads out of the tree.
    """
    for path, target in links.items():
        if leads_out(path, links):
            raise RefusedArchiveError(
                f"{'/'.join(path)!r:.200} is a link to {target!r:.200}, which leads out of the destination"
                " (outside_links)"
            )


def leads_out(path: Parts, links: Mapping[Parts, str]) -> bool:
    """Whether following the link at `path` leaves the root at any step; one that leads nowhere does not."""
    at, todo, hops = list(path[:-1]), deque([path[-1]]), 0
    while todo:
        step = todo.popleft()
        if step == "..":
            if not at:
                return True
            at.pop()
        elif step not in ("", "."):
            at.append(step)
            target = links.get(tuple(at))
            if target is None:
                continue
            hops += 1
            if target.startswith("/"):
                return True
            if hops > _MOST_HOPS:
                return False
            at.pop()
            todo.extendleft(reversed(target.split("/")))
    return False

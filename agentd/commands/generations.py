"""`agentd generations`: the generations of the tree, newest first, and which of them is current."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from agentd.agent import open_tree
from agentd.commands.output import Output, moment
from agentd.config import load

_COLUMNS: Final = ("", "NUMBER", "CREATED", "BY", "FILES", "CHANGED")
_SHOWN: Final = 4  # changed paths in the table; --json has all


def execute(arguments: Namespace, output: Output) -> int:
    """Print them."""
    tree = open_tree(load(arguments.config).config)
    found = [_told(one.number, tree.manifest(one.number), current=one.current) for one in tree.generations()]
    found.sort(key=lambda one: -int(one["generation"]))
    if output.json:
        output.document(found)
    else:
        output.table(_COLUMNS, [_cells(one) for one in found], empty="There is no generation yet.")
    return 0


def _told(number: int, manifest: Any, *, current: bool) -> dict[str, Any]:  # noqa: ANN401 (the manifest's JSON)
    return {
        "generation": number,
        "current": current,
        "created": manifest.get("created"),
        "by": manifest.get("by"),
        "parent": manifest.get("parent"),
        "changed": list(manifest.get("changes", ())),
        "files": sorted(manifest.get("files", ())),
    }


def _cells(one: dict[str, Any]) -> list[object]:
    paths = one["changed"]
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return [
        "current" if one["current"] else " ",
        one["generation"],
        moment(one["created"]),
        one["by"],
        len(one["files"]),
        ", ".join(paths[:_SHOWN]) + more,
    ]

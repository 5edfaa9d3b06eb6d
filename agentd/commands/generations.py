"""`agentd generations`: the generations of the tree, newest first, and which of them is current."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, Final

from agentd.commands.output import Output, moment
from agentd.commands.parser import Parser
from agentd.commands.places import read_places
from agentd.errors import FormatError, TreeError
from agentd.printable import printable
from agentd.tree.generation import Generations, Manifest, current_number

_COLUMNS: Final = ("", "NUMBER", "CREATED", "BY", "FILES", "CHANGED")
_SHOWN: Final = 4  # changed paths in the table; --json has all


def add_arguments(parser: Parser) -> None:
    """Only `--config` and `--json`, which every command has."""
    parser.add_example("agentd generations")


def execute(arguments: Namespace, output: Output) -> int:
    """Print them."""
    tree = read_places(arguments.config).tree
    found = list(_all(Generations(tree / "generations"), current_number(tree / "current")))
    if output.json:
        output.document(found)
    else:
        output.table(_COLUMNS, [_cells(one) for one in found], empty="There is no generation yet.")
    return 0


def _all(generations: Generations, current: int) -> Iterator[dict[str, Any]]:
    for number in reversed(generations.numbers()):
        try:
            manifest = generations.open(number).manifest
        except (TreeError, FormatError) as error:
            if number == current and isinstance(error, FormatError):
                raise
            sys.stderr.write(f"agentd: warning: {printable(str(error))}\n")
        else:
            yield _document(manifest, current)


def _document(manifest: Manifest, current: int) -> dict[str, Any]:
    return {
        "generation": manifest.generation,
        "current": manifest.generation == current,
        "created": manifest.created,
        "by": manifest.extra.get("by"),
        "parent": manifest.parent,
        "changed": list(manifest.changes),
        "files": sorted(manifest.files),
        "wiped": list(manifest.wiped),
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

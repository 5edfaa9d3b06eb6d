"""`agentd generations`: the generations of the tree, newest first, what is in one, and how two differ."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, Final

from agentd.commands import argument_types
from agentd.commands.output import Output, moment
from agentd.commands.parser import Parser
from agentd.commands.places import read_places
from agentd.errors import FormatError, TreeError
from agentd.printable import printable
from agentd.tree.generation import Generations, Manifest, current_number

_LISTED: Final = 3  # paths that are named
_COLUMNS: Final = ("", "NUMBER", "CREATED", "BY", "FILES", "CHANGED")


def add_arguments(parser: Parser) -> None:
    """Add the verbs."""
    parser.add_example(
        "sudo agentd generations", "sudo agentd generations show 41", "sudo agentd generations diff 41"
    )
    parser.usage = "%(prog)s [options] [VERB ...]"
    show = parser.add_verb("show", "show the files of one, and why it is current")
    show.add_example(
        "sudo agentd generations show current", "sudo agentd generations show 41 --path 'tickets/*'"
    )
    diff = parser.add_verb("diff", "show how the files of one differ from those of another")
    diff.add_example("sudo agentd generations diff -1", "sudo agentd generations diff 41 42 --path upstreams")
    diff.epilog = (
        "Of a file that only its owner may read, length and digest alone are shown, likewise of one that is"
        " no text or is larger than 256 KiB. What agentd"
        " itself writes into each generation is left out."
    )
    diff.add_exit_status("0, whether or not they differ.")
    which = "a number, `current`, `newest`, or -1 for the one before the current one, -2, ..."
    show.add_argument(
        "number",
        nargs="?",
        default="current",
        type=argument_types.word,
        metavar="N",
        help=f"{which} (default current)",
    )
    diff.add_argument("number", type=argument_types.word, metavar="N", help=which)
    diff.add_argument(
        "other",
        nargs="?",
        default="current",
        type=argument_types.word,
        metavar="M",
        help="likewise (default current)",
    )
    for verb in (show, diff):
        verb.add_argument(
            "--path",
            dest="paths",
            action="append",
            default=[],
            type=argument_types.word,
            metavar="P",
            help="only this file, what is in this directory, or what fits a pattern such as 'maps/*.map'",
        )


def execute(arguments: Namespace, output: Output) -> int:
    """Print them, or run the verb.

    Raises:
        TreeError, FormatError: a generation that was asked for is not there, or cannot be read.
        AgentdError: no file fits `--path`.
    """
    places = read_places(arguments.config)
    tree = places.tree
    if arguments.verb:
        from agentd.commands import generation_files  # noqa: PLC0415 (the list does without)

        run = generation_files.show if arguments.verb == "show" else generation_files.diff
        run(arguments, places, output)
        return 0
    found = list(_all(Generations(tree / "generations"), current_number(tree / "current")))
    if output.json:
        output.document(found)
    else:
        rows = [_cells(one) for one in found]
        output.table(_COLUMNS, rows, empty="There is no generation yet.", prose=("CHANGED",))
    return 0


def _all(generations: Generations, current: int) -> Iterator[dict[str, Any]]:
    for number in reversed(generations.numbers()):
        try:
            manifest = generations.open(number).manifest
        except (TreeError, FormatError) as error:
            denied = isinstance(error.__cause__, PermissionError)
            if denied or (number == current and isinstance(error, FormatError)):
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
    return [
        "current" if one["current"] else " ",
        one["generation"],
        moment(one["created"]),
        one["by"],
        len(one["files"]),
        _in_short(one["changed"]),
    ]


def _in_short(paths: Sequence[str]) -> str:
    """The paths; if they are many, how many in each directory. `--json` and the verbs name each."""
    if len(paths) <= _LISTED:
        return ", ".join(paths)
    places = Counter(f"{PurePath(path).parent}/" for path in paths)
    return ", ".join(f"{place} ({count} file{'s' * (count > 1)})" for place, count in places.items())

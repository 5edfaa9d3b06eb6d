"""`agentd generations show` and `diff`: the files of a generation, and how they differ from another's.

Content is shown by `file_difference`, which says what may be shown.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final

from agentd.commands.file_difference import difference, is_public, print_difference
from agentd.commands.output import Output, moment
from agentd.commands.places import Places, open_journal
from agentd.errors import AgentdError, FormatError, TreeError
from agentd.journal.history import Movement, last_movement, made_of
from agentd.tree.generation import FileEntry, Generation, Generations, current_number, number_of
from agentd.tree.stage import differing

_COLUMNS: Final = ("PATH", "MODE", "OWNER", "SIZE", "SHA256", "SINCE")
_SHORT: Final = 8  # digits of a digest
_NUMBER: Final = re.compile("[0-9]{1,9}")
_BACK: Final = re.compile("-[0-9]{1,9}")
_WHY: Final = {
    "rollback": "current again instead of generation {0}: by `agentd rollback`, or because nginx refused it",
    "disproof": "current again, because nginx was not proved to serve generation {0}",
    "adopted": "found as current when agentd started",
    "start": "committed when agentd started",
}


def show(arguments: Namespace, places: Places, output: Output) -> None:
    """Print what is in a generation, and why it is current if it is."""
    generations, current = Generations(places.tree / "generations"), current_number(places.tree / "current")
    one = _opened(generations, arguments.number, current)
    files = {path: entry for path, entry in one.files.items() if path in _chosen(arguments.paths, one.files)}
    movement, changes = _remembered(places, one.number)
    told = {
        "generation": one.number,
        "current": one.number == current,
        "why": _why(one, movement) if one.number == current else None,
        "current_since": movement.at if movement and one.number == current else None,
        "created": one.manifest.created,
        "by": one.manifest.extra.get("by"),
        "parent": one.manifest.parent,
        "changes": changes,
        "changed": list(one.manifest.changes),
        "wiped": list(one.manifest.wiped),
        "files": [
            _file(path, entry, _since(generations, one, path)) for path, entry in sorted(files.items())
        ],
    }
    if output.json:
        output.document(told)
    else:
        _print(told, output)


def diff(arguments: Namespace, places: Places, output: Output) -> None:
    """Print how the files of two generations differ."""
    generations, current = Generations(places.tree / "generations"), current_number(places.tree / "current")
    old = _opened(generations, arguments.number, current)
    new = _opened(generations, arguments.other, current)
    if old.number == new.number:
        raise AgentdError(
            f"both are generation {old.number}: name another one, such as `agentd generations diff -1`"
        )
    chosen = _chosen(arguments.paths, {**old.files, **new.files})
    told = [
        difference(
            path, old.files.get(path), new.files.get(path), partial(old.read, path), partial(new.read, path)
        )
        for path in differing(old.files, new.files)
        if path in chosen
    ]
    if output.json:
        output.document({"from": old.number, "to": new.number, "files": told})
        return
    output.line(f"Generation {old.number} -> {new.number}{'' if told else ': no difference'}", "bold")
    for one in told:
        print_difference(one, output)


def _opened(generations: Generations, text: str, current: int) -> Generation:
    """The generation that is meant.

    Raises:
        TreeError, FormatError: it is not there, or cannot be read.
    """
    try:
        numbers = sorted(filter(None, (number_of(one.name) for one in generations.directory.iterdir())))
    except FileNotFoundError:
        numbers = []
    there = _ranges(numbers) or "none yet"
    number = 0
    if text == "current":
        number = current
    elif text == "newest":
        number = max(numbers, default=0)
    elif _BACK.fullmatch(text):
        before = [one for one in numbers if one < current]
        number = before[int(text)] if -len(before) <= int(text) < 0 else 0
    elif _NUMBER.fullmatch(text) and int(text) in numbers:
        number = int(text)
    if not number:
        raise TreeError(f"there is no generation {text}; kept: {there}")
    return generations.open(number)


def _ranges(numbers: Sequence[int]) -> str:
    """The numbers, as "3, 7 to 12"."""
    parts: list[list[int]] = []
    for one in numbers:
        if parts and one == parts[-1][-1] + 1:
            parts[-1][1:] = [one]
        else:
            parts.append([one])
    return ", ".join(" to ".join(map(str, part)) for part in parts)


def _chosen(patterns: Sequence[str], files: Mapping[str, FileEntry]) -> set[str]:
    """The paths that fit; all without a pattern. Raises AgentdError if one fits nothing."""
    if not patterns:
        return set(files)
    found: set[str] = set()
    for pattern in patterns:
        plain = pattern.strip("/")
        fits = {path for path in files if fnmatchcase(path, plain) or f"{path}/".startswith(f"{plain}/")}
        if not fits:
            names = sorted({path.partition("/")[0] for path in files})
            raise AgentdError(f"no file fits {pattern!r}; those at the top: {', '.join(names)}")
        found |= fits
    return found


def _remembered(places: Places, number: int) -> tuple[Movement | None, list[str]]:
    """How the generation became current last, and the IDs of its changes, as far as that is remembered."""
    journal = open_journal(places.state)
    if journal is None:
        return None, []
    with closing(journal):
        return last_movement(journal, number), made_of(journal, number)


def _why(one: Generation, movement: Movement | None) -> str:
    by = one.manifest.extra.get("by")
    text = _WHY.get(movement.handler, "") if movement else ""
    return text.format(movement.parent) if text and movement else f"committed by {by}"


def _since(generations: Generations, one: Generation, path: str) -> int:
    """The generation since which the file is as it is, among those that are still there."""
    entry, since = one.files[path], one.number
    while True:
        try:
            parent = generations.open(one.manifest.parent)
        except (TreeError, FormatError):
            return since
        if not entry.same_file(parent.files.get(path)):
            return since
        one, since = parent, parent.number


def _file(path: str, entry: FileEntry, since: int) -> dict[str, Any]:
    return {
        "path": path,
        "mode": f"{entry.mode:04o}",
        "owner": entry.owner,
        "size": entry.size,
        # All of it would tell whoever guesses a secret whether that is right.
        "sha256": entry.sha256 if is_public(entry) else entry.sha256[:_SHORT],
        "secret": entry.secret,
        "since": since,
    }


def _print(told: Mapping[str, Any], output: Output) -> None:
    output.pairs(
        {
            "generation": told["generation"],
            "current": told["why"] or False,
            **({"current since": moment(told["current_since"])} if told["current_since"] else {}),
            "created": moment(told["created"]),
            "by": told["by"],
            "parent": told["parent"] or None,
            "changes": "\n".join(told["changes"]),
            "changed": "\n".join(told["changed"]),
            **({"wiped": "\n".join(told["wiped"])} if told["wiped"] else {}),
        }
    )
    output.line()
    short = _SHORT if output.width is not None else None
    rows = [
        [one["path"], one["mode"], one["owner"] or "agentd", one["size"], one["sha256"][:short], one["since"]]
        for one in told["files"]
    ]
    output.table(_COLUMNS, rows, empty="It has no files.")

"""What may be shown of a file of the tree, and of how it differs from another version of it.

A file that only its owner may read is a secret: only its length and digest are shown, never a line of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Final

from agentd.commands.output import Colour, Output
from agentd.tree.generation import FileEntry

Read = Callable[[], bytes | None]

LARGEST: Final = 256 * 1024
"""Bytes of a file that is compared line by line."""
_OTHERS_READ: Final = 0o044
_COLOURS: Final[dict[str, Colour]] = {"+": "green", "-": "red"}


def is_public(entry: FileEntry) -> bool:
    """Whether its group, or everybody, may read the file."""
    return bool(entry.mode & _OTHERS_READ) and not entry.secret


def described(entry: FileEntry | None) -> str:
    """Length and digest of the file, such as "48 bytes sha256:1a2b3c4d"; "no file" for None."""
    return "no file" if entry is None else f"{entry.size} bytes sha256:{entry.sha256[:8]}"


def text_of(content: bytes) -> str | None:
    """The content as text; None if it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def difference(
    path: str, before: FileEntry | None, after: FileEntry | None, old: Read, new: Read
) -> dict[str, Any]:
    """Both versions of a file as JSON types; `diff` is None where it must not or cannot be shown.

    Args:
        path: of the file.
        before: what it was; None: there was no file.
        after: what it is or would be; None: there is no file.
        old: reads the content of `before`; called only if it may be shown.
        new: the same for `after`.
    """
    entries = [entry for entry in (before, after) if entry is not None]
    shows = all(is_public(entry) and entry.size <= LARGEST for entry in entries)
    return {
        "path": path,
        "mode": f"{entries[-1].mode:04o}" if entries else None,
        "mode_before": f"{before.mode:04o}" if before else None,
        "before": described(before),
        "after": described(after),
        "diff": _unified(path, old() if before else None, new() if after else None) if shows else None,
    }


def _unified(path: str, before: bytes | None, after: bytes | None) -> list[str] | None:
    """A unified diff, or None if it is not text."""
    old, new = (text_of(content or b"") for content in (before, after))
    if old is None or new is None:
        return None
    names = ("/dev/null" if before is None else f"a/{path}", "/dev/null" if after is None else f"b/{path}")
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm=""))


def print_difference(told: dict[str, Any], output: Output) -> None:
    """Print what `difference` returned."""
    if told["diff"] is None:
        output.line(f"  {told['path']} (mode {told['mode']}): {told['before']} -> {told['after']}")
    elif told["mode_before"] not in (None, told["mode"]):
        output.line(f"  {told['path']}: mode {told['mode_before']} -> {told['mode']}")
    for line in told["diff"] or ():
        output.line(line, _COLOURS.get(line[:1]))

"""Trees for tests, and ways to look at one from outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentd.errors import FormatError, TreeError
from agentd.tree.generation import Generation, Generations
from agentd.tree.tree import Commit, Tree

Files = dict[str, tuple[bytes, int]]
"""Path -> (content, mode)."""


def new_tree(directory: Path, **options: Any) -> Tree:  # noqa: ANN401 (Tree's own options)
    """A tree in `directory`/tree with its mirror in `directory`/mirror, whose check takes everything."""
    defaults: dict[str, Any] = {
        "path": directory / "tree",
        "keep": 5,
        "check": lambda _: None,
        "stamp": lambda number: {"agentd.conf": f"# {number}\n".encode()},
        "mirror": directory / "mirror",
        "prefix": "agentd",
        "clock": lambda: 1_700_000_000.0,
        "patience": 0.0,
    }
    return Tree(**defaults | options)


def generations(tree: Tree) -> list[Generation]:
    """Those that can be read, in ascending order."""
    there, found = Generations(tree.path / "generations"), []
    for number in there.numbers():
        with suppress(TreeError, FormatError):
            found.append(there.open(number))
    return found


def unprepared(_number: int, _changed: tuple[str, ...]) -> None:
    """There is no journal to note the intent in."""


def commit(tree: Tree, owner: str, files: Mapping[str, bytes | None], **options: Any) -> Commit | None:  # noqa: ANN401 (Tree.commit's own)
    """Commit these files of `owner`, and tidy up; None removes one."""
    stage = tree.stage(owner)
    for path, data in files.items():
        if data is None:
            stage.remove(path)
        else:
            stage.write(path, data)
    defaults: dict[str, Any] = {"extra": {}, "prepare": unprepared}
    hold = options.pop("hold", ())
    made = tree.commit(stage, **defaults | options)
    with suppress(TreeError):  # as the committer does: the commit holds
        tree.tidy(hold)
    return made


def content(directory: Path) -> Files:
    """All regular files below a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_dir():
            found[str(path.relative_to(directory))] = (path.read_bytes(), stat.S_IMODE(path.lstat().st_mode))
    return found


def live(tree: Tree) -> Files:
    """The handlers' files as nginx sees them through `current`."""
    own = {"manifest.json", "agentd.conf"}
    return {
        path: file for path, file in content((tree.path / "current").resolve()).items() if path not in own
    }


def everything(directory: Path) -> dict[str, tuple[object, ...]]:
    """All below a directory, links and modes included; what no one reads (`.lock`, `.mended`) left out."""
    found: dict[str, tuple[object, ...]] = {}
    for root, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(root, name)
            body: object = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
            if name not in (".lock", ".mended"):
                found[str(path.relative_to(directory))] = (path.lstat().st_mode, body)
    return found

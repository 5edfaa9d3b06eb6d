"""Trees for tests, and ways to look at one from outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.apply.tree import Commit, Tree

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


def unprepared(_number: int, _changed: tuple[str, ...]) -> None:
    """There is no journal to note the intent in."""


def commit(tree: Tree, owner: str, files: Mapping[str, bytes | None], **options: Any) -> Commit | None:  # noqa: ANN401 (Tree.commit's own)
    """Commit these files of `owner`; None removes one."""
    stage = tree.stage(owner)
    for path, data in files.items():
        if data is None:
            stage.remove(path)
        else:
            stage.write(path, data)
    defaults: dict[str, Any] = {"extra": {}, "prepare": unprepared}
    return tree.commit(stage, **defaults | options)


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
    """All below a directory, links and modes included; `.lock`, which no one reads, left out."""
    found: dict[str, tuple[object, ...]] = {}
    for root, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(root, name)
            body: object = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
            if name != ".lock":
                found[str(path.relative_to(directory))] = (path.lstat().st_mode, body)
    return found

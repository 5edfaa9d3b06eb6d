"""Whether what nginx reads beside the tree has changed: by name, size and time of each file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_MOST: Final = 20_000


class Inputs(NamedTuple):
    """nginx's configuration directory at one moment.

    Attributes:
        digest: differs once a file was added, removed or written.
        newest: unix time of the last change of any of them, to the microsecond.
    """

    digest: str
    newest: float


def inputs(directory: Path, tree: Path) -> Inputs:
    """Look at nginx's configuration directory.

    Args:
        directory: that of nginx.conf.
        tree: agentd's own, left out.
    """
    found, newest = hashlib.sha256(), 0
    for number, (path, status) in enumerate(_entries(str(directory), str(tree))):
        if number >= _MOST:
            break
        newest = max(newest, status.st_ctime_ns)
        seen = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        found.update(repr(seen).encode(errors="surrogateescape"))
    return Inputs(found.hexdigest(), newest / 1e9)


def _entries(directory: str, tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each file and directory; what cannot be read will be a change once it can."""
    try:
        yield directory, Path(directory).stat()
        with os.scandir(directory) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in ordered:
        if entry.path == tree:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, tree)
            continue
        try:
            yield entry.path, entry.stat()  # what a link points to: sites-enabled/ is full of them
        except OSError:
            continue

"""Which paths a generation may hold.

A path is named in nginx's configuration and may come from a payload, so only characters that mean nothing
to nginx (no white space, quote, `;`, `{`, `$`, `#`, `*`) and nothing to the file system are allowed. Hidden
names stay out because nginx's own globs pass over them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from agentd.errors import PermanentError

MANIFEST: Final = "manifest.json"
RESERVED: Final = frozenset({MANIFEST, "agentd.conf"})
"""What agentd itself writes into every generation."""

_PART: Final = re.compile(r"[A-Za-z0-9_+=@,:~-][A-Za-z0-9._+=@,:~-]{0,199}")
_LONGEST: Final = 1000


def check_path(path: str, reserved: Collection[str] = RESERVED) -> str:
    """Return the path if it is one that a handler may use.

    Raises:
        PermanentError: it leaves the tree, is agentd's own, or cannot be named in nginx's configuration.
    """
    parts = path.split("/")
    if len(path) > _LONGEST or not all(_PART.fullmatch(part) for part in parts):
        raise PermanentError(
            f"{path[:_LONGEST]!r} cannot be a file of the tree: a relative path is needed whose parts consist"
            " of ASCII letters, digits and ._+=@,:~- and do not begin with a dot"
        )
    if path in reserved or parts[0] in reserved:
        raise PermanentError(f"{path!r} is written by agentd itself: choose another name")
    return path


def check_mode(path: str, mode: int) -> int:
    """Return the mode if a file of the tree may have it.

    Raises:
        PermanentError: it has bits beyond 0777, or its owner could not read it.
    """
    if mode & ~0o777 or not mode & 0o400:
        raise PermanentError(f"{path!r} cannot have mode {mode:#o}: 0400 to 0777, readable by its owner")
    return mode


def check_together(paths: Collection[str]) -> None:
    """Check that all these files can be in one generation.

    Raises:
        PermanentError: as for `check_beside`.
    """
    together = frozenset(paths)
    for path in sorted(together):
        _check_above(path, together)
        _check_cache(path, together)


def check_beside(path: str, paths: Collection[str]) -> None:
    """Check that a file can be in one generation with others.

    Raises:
        PermanentError: one needs a directory where another is a file, or one is where nginx caches another.
    """
    _check_above(path, paths)
    for other in paths:
        if other.startswith(f"{path}/"):
            _check_above(other, {path})
    _check_cache(path, paths)
    if f"{path}.bin" in paths:
        _check_cache(f"{path}.bin", {path})


def _check_above(path: str, paths: Collection[str]) -> None:
    file = path
    while "/" in file:
        file = file.rpartition("/")[0]
        if file in paths:
            raise PermanentError(f"{path!r} and {file!r} cannot both be files of the tree")


def _check_cache(path: str, paths: Collection[str]) -> None:
    # nginx keeps its binary form of a large `geo` file with ranges in FILE.bin, which it writes in place.
    source = path.removesuffix(".bin")
    if source != path and source in paths:
        raise PermanentError(f"{path!r} is where nginx caches {source!r}: choose another name")

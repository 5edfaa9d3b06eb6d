"""The template files on disk: read, and refused where somebody else could write to them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agentd.handler import PermanentError

_LARGEST: Final = 1 << 20  # bytes


def read_source(source: Path) -> str:
    """The text of a template.

    Raises:
        PermanentError: it cannot be read, is no text, or somebody else could write to it.
    """
    try:
        if problem := _open_to_others(source):
            raise PermanentError(problem)
        with source.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise PermanentError(f"the template {source} is larger than {_LARGEST} bytes")
        return data.decode()
    except OSError as error:
        raise PermanentError(f"the template {source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PermanentError(f"the template {source} is not UTF-8 text") from error


def _open_to_others(source: Path) -> str:
    """Who else could write to it; "" if nobody could."""
    resolved = source.resolve(strict=True)
    if not resolved.is_file():
        return f"the template {source} is not a regular file"
    # Whoever can replace a link, or make one in a directory, leads elsewhere.
    for place in dict.fromkeys((resolved, *resolved.parents, *source.parents, source)):
        found = place.stat() if place != source else place.lstat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(found.st_mode)
        if shared and not (found.st_mode & stat.S_ISVTX and place != resolved):
            return (
                f"{place} is writable by others, who could write to nginx's configuration: chmod go-w {place}"
            )
        if found.st_uid not in (0, os.geteuid()):
            return (
                f"{place} belongs to a user who could so write nginx's configuration: chown -h root {place}"
            )
    return ""

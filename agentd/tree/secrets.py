"""Secrets that have left the current generation, and how they leave the older ones and the disk.

A handler marks a file as secret when it writes it. Once the current generation no longer has its content, no
other generation may keep it. So that such a generation can still be made current, it gets all files that the
owner has now, and the owner's store; its manifest records what was wiped, and nothing heals that.

Only here is a generation rewritten, and never the current one: the manifest first, by one rename, so that
after a crash it tells what is left to do. Which ones, and when, is the tree's to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG
from types import MappingProxyType
from typing import Final

from agentd.errors import PermanentError
from agentd.tree import disk
from agentd.tree.generation import FileEntry, Generation
from agentd.tree.paths import MANIFEST, check_together

_OTHERS: Final = 0o077


def owners(generation: Generation) -> set[str]:
    """The handlers that have a secret in it."""
    return {entry.owner for entry in generation.files.values() if entry.secret and entry.owner is not None}


def retired(generation: Generation, current: Generation) -> dict[str, FileEntry]:
    """By path, the secrets of a generation whose content is not in the current one."""
    kept = {entry.sha256 for entry in current.files.values()}
    keepers = owners(current)
    return {
        path: entry
        for path, entry in generation.files.items()
        if entry.sha256 not in kept and _is_secret(generation, entry, keepers)
    }


def _is_secret(generation: Generation, entry: FileEntry, keepers: Collection[str]) -> bool:
    if generation.manifest.marked:
        return entry.secret
    # An earlier version made it, and marked nothing.
    return entry.owner in keepers and not entry.mode & _OTHERS


def refitted(generation: Generation, current: Generation, whose: Collection[str]) -> Generation:
    """The generation with the files and stores that these handlers have in the current one."""
    others = {path: entry for path, entry in generation.files.items() if entry.owner not in whose}
    files = others | {path: entry for path, entry in current.files.items() if entry.owner in whose}
    try:
        check_together(path for path, entry in files.items() if entry.owner is not None)
    except PermanentError:  # another handler had a path then that is theirs now
        files = others
    before, now = (one.manifest.extra.get("store", {}) for one in (generation, current))
    stores = {name: store for name, store in before.items() if name not in whose}
    stores |= {name: store for name, store in now.items() if name in whose}
    gone = {
        path
        for path, entry in generation.files.items()
        if entry.owner in whose and not entry.same_file(files.get(path))
    }
    manifest = replace(
        generation.manifest,
        files=MappingProxyType(files),
        extra={**generation.manifest.extra, "store": stores},
        wiped=tuple(sorted({*generation.manifest.wiped, *gone})),
        marked=True,
    )
    return Generation(generation.directory, manifest)


def rewrite(generation: Generation, room: Path) -> None:
    """Replace the manifest of a generation by this one; its files follow.

    Raises:
        OSError: it cannot be written; the generation is as before.
    """
    with closing(disk.Scratch(room)) as scratch:
        fresh = scratch.path / MANIFEST
        disk.write(fresh, generation.manifest.dump(), 0o600)
        disk.sync([fresh])
        fresh.rename(generation.directory / MANIFEST)
        disk.sync([generation.directory])


def remove(generation: Generation, paths: Iterable[str]) -> None:
    """Remove files, and the directories that are empty then.

    Raises:
        OSError: one cannot be removed.
    """
    for path in paths:
        file = generation.directory / path
        for one in (file, file.with_name(f"{file.name}.bin")):
            with suppress(FileNotFoundError, NotADirectoryError):
                one.unlink()
        for parent in list(Path(path).parents)[:-1]:
            with suppress(OSError):  # it is not empty
                (generation.directory / parent).rmdir()
    disk.sync([generation.directory])


def remove_private(directory: Path) -> None:
    """Remove what only its owner may read from a generation whose manifest cannot be read: it is of no use.

    Raises:
        OSError: a file cannot be removed.
    """
    for file in directory.rglob("*"):
        found = file.lstat()
        if S_ISREG(found.st_mode) and not found.st_mode & _OTHERS and file.name != MANIFEST:
            file.unlink()

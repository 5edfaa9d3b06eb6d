"""Replaces damaged files of a generation, one by one, by sound copies of the same content.

It owns where a copy may come from: the mirror, which shares no file with the tree, or another generation,
which may have kept a file that was replaced rather than written over, or the vault. A healed file is a new
file: nothing is ever written in place. Which generations need it, and what nginx has to be told, is the
tree's to decide.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from agentd.tree import disk
from agentd.tree.generation import FileEntry, Generation
from agentd.tree.vault import Vault, located


def heal(
    generation: Generation, damaged: Iterable[str], copies: Iterable[Generation], room: Path, vault: Vault
) -> list[str]:
    """Replace the files at these paths.

    Args:
        generation: which one.
        damaged: what `Seals.damaged` found in it.
        copies: where a file of the same content may be, the best first.
        room: a directory on the same file system, for what is not complete yet.
        vault: where secrets are.

    Returns:
        The paths for which there is no sound copy; they stay as they are.

    Raises:
        OSError: one cannot be written; those before it are healed.
    """
    sources = list(copies)
    with closing(disk.Scratch(room)) as scratch:
        lost = [path for path in damaged if not _replace(generation, path, sources, scratch.path, vault)]
        for directory in {(generation.directory / path).parent for path in generation.files}:
            with suppress(FileNotFoundError):
                disk.sync([directory])
    return lost


def _replace(
    generation: Generation, path: str, sources: list[Generation], scratch: Path, vault: Vault
) -> bool:
    entry, target = generation.files[path], generation.directory / path
    new = scratch / "new"
    if vault.keeps(entry):
        return _relink(generation, path, sources, scratch, vault)
    for source in _with_content(entry, sources):
        new.unlink(missing_ok=True)
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            if source == target or disk.copy(source, new, entry.mode) != (entry.sha256, entry.size):
                continue
            disk.sync([new])
            _clear(generation.directory, path, scratch)
            new.rename(target)
            if f"{path}.bin" not in generation.files:  # what nginx made of the damaged file
                target.with_name(f"{target.name}.bin").unlink(missing_ok=True)
            return True
    return False


def _relink(
    generation: Generation, path: str, sources: list[Generation], scratch: Path, vault: Vault
) -> bool:
    entry, target = generation.files[path], generation.directory / path
    places = [target, *_with_content(entry, sources)]
    if not any(vault.take(entry, place) for place in places):
        return False
    new = scratch / "new"
    new.unlink(missing_ok=True)
    new.symlink_to(vault.path(entry))
    _clear(generation.directory, path, scratch)
    new.rename(target)
    return True


def _with_content(entry: FileEntry, sources: list[Generation]) -> Iterator[Path]:
    for source in sources:
        for path, other in source.files.items():
            if other.sha256 == entry.sha256:
                yield Path(located(source.directory / path, other))


def _clear(directory: Path, path: str, scratch: Path) -> None:
    """Make way: a directory where the file should be, or anything else where a directory should be."""
    target = directory / path
    if target.is_dir() and not target.is_symlink():
        target.rename(scratch / f"was-{os.urandom(4).hex()}")
    for parent in list(reversed(Path(path).parents))[1:]:
        inner = directory / parent
        if not inner.is_dir() or inner.is_symlink():
            inner.unlink(missing_ok=True)
            inner.mkdir()
            inner.chmod(0o755)

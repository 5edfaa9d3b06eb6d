"""Builds the directory of a generation, complete and durable before it gets its number.

It owns how a generation comes to be on disk: unchanged files are hard links, changed ones are new files, so
that no inode of an old generation is ever written. It must not decide what belongs into it, nor touch
`current`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from agentd.apply import disk
from agentd.apply.manifest import Manifest, View
from agentd.apply.paths import MANIFEST
from agentd.apply.stage import Content, Stage


def name(number: int) -> str:
    """The directory of a generation: "000042"."""
    return f"{number:06d}"


def number_of(directory: str) -> int:
    """The number of a generation, by its directory's name; 0 if it is no such name."""
    return (
        int(directory)
        if directory.isascii() and directory.isdigit() and len(directory) >= len(name(0))
        else 0
    )


def build(
    generations: Path, base: View, stage: Stage, stamped: Mapping[str, bytes], manifest: Manifest
) -> Path:
    """Make generation `manifest.generation` from what is current and what is staged.

    Returns:
        Its directory, under its final name, synced. Nothing leads there yet.

    Raises:
        OSError: and then nothing of it is left.
        TypeError, ValueError: the manifest's `extra` is not JSON.
    """
    raw = manifest.dump()
    with _Build(generations, manifest.generation) as made:
        for path, entry in manifest.files.items():
            content = stage.content(path)
            if entry.owner is None:
                made.add(path, Content(entry, stamped[path]))
            elif content is not None and not entry.same_file(base.files.get(path)):
                made.add(path, content)
            else:
                made.link(path, base.directory / path, entry.mode)
                made.link_cache(path, base.directory / path)
        made.write(MANIFEST, raw, 0o600)
        return made.finish(durable=True)


def replicate(view: View, parent: Path, *, durable: bool) -> Path:
    """Make a second copy of a generation in another directory, by hard links where possible.

    Returns:
        Its directory, which takes the place of one of the same name.

    Raises:
        OSError: and then nothing of the copy is left.
    """
    with _Build(parent, view.number) as made:
        for path, entry in view.files.items():
            made.link(path, view.directory / path, entry.mode)
        made.link(MANIFEST, view.directory / MANIFEST, 0o600)
        return made.finish(durable=durable)


class _Build:
    """A directory in the making: removed unless it was finished."""

    def __init__(self, parent: Path, number: int) -> None:
        self._target = parent / name(number)
        self._directory = Path(tempfile.mkdtemp(prefix=f".new-{name(number)}-", dir=parent))
        self._directories = [self._directory]
        self._files: list[Path] = []
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            disk.discard(self._directory)

    def add(self, path: str, content: Content) -> None:
        """Add a file of new content."""
        target = self._place(path)
        content.place(target)
        self._files.append(target)

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Add a file of these bytes."""
        target = self._place(path)
        disk.write(target, data, mode)
        self._files.append(target)

    def link(self, path: str, source: Path, mode: int) -> None:
        """Add a file that is unchanged."""
        target = self._place(path)
        if disk.link(source, target, mode):
            self._files.append(target)

    def link_cache(self, path: str, source: Path) -> None:
        """Take along what nginx made of an unchanged file.

        It writes FILE.bin beside long `geo` lists, which takes most of the time of a check. A file never
        changes within its generation, so what lies beside it was made from it; nginx checks it anyway.
        """
        cache = source.with_name(f"{source.name}.bin")
        with suppress(OSError):
            os.link(cache, self._place(f"{path}.bin"), follow_symlinks=False)

    def finish(self, *, durable: bool) -> Path:
        """Give it its name."""
        for directory in self._directories:
            directory.chmod(0o755)
        if durable:
            disk.sync([*self._files, *reversed(self._directories)])
        if self._target.exists():
            disk.discard(self._target)
        self._directory.rename(self._target)
        self._directory = self._target
        if durable:
            disk.sync([self._target.parent])
        self._finished = True
        return self._target

    def _place(self, path: str) -> Path:
        target = self._directory / path
        missing = []
        directory = target.parent
        while directory not in self._directories:
            missing.append(directory)
            directory = directory.parent
        for directory in reversed(missing):
            directory.mkdir()
            self._directories.append(directory)
        return target

"""Builds the directory of a generation.

It owns how a generation gets onto the disk: unchanged files are hard links, changed ones are new files, so
that no inode of an old generation is ever written. It does not decide what belongs in one, and does not touch
`current`: a directory that nothing points to may be lost or cut short by a power cut.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from agentd.tree import disk
from agentd.tree.generation import FileEntry, Generation, Manifest, directory_name
from agentd.tree.paths import MANIFEST
from agentd.tree.stage import Content, Stage
from agentd.tree.vault import Vault, located


def build(
    generations: Path,
    base: Generation,
    stage: Stage,
    stamped: Mapping[str, bytes],
    manifest: Manifest,
    vault: Vault,
) -> tuple[Path, list[str]]:
    """Make generation `manifest.generation` from what is current and what is staged.

    Returns:
        Its directory, under its final name, and what to sync before anything may point there.

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
            elif vault.keeps(entry):
                if content is not None:
                    vault.put(entry, content.read())
                elif not vault.take(entry, base.directory / path):
                    raise OSError(errno.EIO, "it is damaged", str(base.directory / path))
                made.point(path, vault.path(entry))
            elif content is not None and not entry.same_file(base.files.get(path)):
                made.add(path, content)
            else:
                made.link(path, base.directory, entry)
                made.link_cache(path, base.directory)
        made.write(MANIFEST, raw, 0o600)
        return made.finish(), made.unsynced


def replicate(
    generation: Generation, parent: Path, vault: Vault, *, durable: bool, held: Generation | None = None
) -> Path:
    """Make a second copy of a generation in another directory, which shares no file with it.

    Args:
        generation: which one.
        parent: the other directory.
        vault: where secrets are; of those, the copy has links as well.
        durable: whether to wait until it is on the disk.
        held: an undamaged earlier copy in that directory, with which it shares what is the same.

    Returns:
        Its directory, which takes the place of one of the same name.

    Raises:
        OSError: and then nothing of the copy is left; EIO if a file does not hold what it should.
    """
    with _Build(parent, generation.number) as made:
        for path, entry in generation.files.items():
            if vault.keeps(entry):
                made.point(path, vault.path(entry))
            elif held is not None and entry.same_file(held.files.get(path)):
                made.link(path, held.directory, entry)
            else:
                made.copy(path, generation.directory / path, entry)
        made.write(MANIFEST, (generation.directory / MANIFEST).read_bytes(), 0o600)
        directory = made.finish()
        if durable:
            disk.sync(made.unsynced)
        return directory


class _Build:
    """A directory in the making: removed unless it was finished.

    Its paths are strings, since pathlib would take longer than the system calls.
    """

    def __init__(self, parent: Path, number: int) -> None:
        self._target = parent / directory_name(number)
        self._directory = tempfile.mkdtemp(prefix=f".new-{directory_name(number)}-", dir=parent)
        self._directories = {self._directory: None}  # in the order in which they were made
        self._files: list[str] = []
        self._caches: dict[str, frozenset[str]] = {}
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            disk.discard(Path(self._directory))

    def add(self, path: str, content: Content) -> None:
        """Add a file of new content."""
        target = self._place(path)
        content.place(Path(target))
        self._files.append(target)

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Add a file of these bytes."""
        target = self._place(path)
        disk.write(Path(target), data, mode)
        self._files.append(target)

    def copy(self, path: str, source: Path, entry: FileEntry) -> None:
        """Add a copy of a file, which must have the content of the entry."""
        target = self._place(path)
        if disk.copy(Path(located(source, entry)), Path(target), entry.mode) != (entry.sha256, entry.size):
            raise OSError(errno.EIO, "it is damaged", str(source))
        self._files.append(target)

    def point(self, path: str, target: Path) -> None:
        """Add a link to a secret."""
        Path(self._place(path)).symlink_to(target)

    def link(self, path: str, source: Path, entry: FileEntry) -> None:
        """Add a file that is unchanged from the generation in `source`."""
        target = self._place(path)
        if disk.link(located(f"{source}/{path}", entry), target, entry.mode):
            self._files.append(target)

    def link_cache(self, path: str, source: Path) -> None:
        """Add what nginx made of an unchanged file.

        It writes FILE.bin beside long `geo` lists, which takes most of the time of a check. A file never
        changes within its generation, so what is beside it was made from it; nginx checks it anyway.
        """
        directory, _, file = f"{source}/{path}".rpartition("/")
        if directory not in self._caches:
            with os.scandir(directory) as entries:
                self._caches[directory] = frozenset(one.name for one in entries if one.name.endswith(".bin"))
        if f"{file}.bin" in self._caches[directory]:
            with suppress(OSError):
                os.link(f"{directory}/{file}.bin", self._place(f"{path}.bin"), follow_symlinks=False)

    def finish(self) -> Path:
        """Give it its name."""
        for directory in self._directories:
            Path(directory).chmod(0o755)
        if self._target.exists():
            disk.discard(self._target)
        Path(self._directory).rename(self._target)
        self._finished = True
        return self._target

    @property
    def unsynced(self) -> list[str]:
        """New files and directories of the finished generation, from the inside out, and the one it is in."""
        made = [*self._files, *reversed(self._directories)]
        return [*(f"{self._target}{path[len(self._directory) :]}" for path in made), str(self._target.parent)]

    def _place(self, path: str) -> str:
        target = f"{self._directory}/{path}"
        missing = []
        directory = target.rpartition("/")[0]
        while directory not in self._directories:
            missing.append(directory)
            directory = directory.rpartition("/")[0]
        for directory in reversed(missing):
            Path(directory).mkdir()
            self._directories[directory] = None
        return target

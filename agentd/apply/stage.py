"""What one attempt has staged, as a layer over the generation it began with.

It owns the layer, in memory (large files: in a private directory beside the generations), and who may write
what. It must not touch a generation: the tree takes the layer over when it commits.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from agentd.apply import disk
from agentd.apply.manifest import Entry, View
from agentd.apply.paths import RESERVED, check_beside, check_mode, check_path, check_together
from agentd.errors import PermanentError

Difference: TypeAlias = tuple[str, bytes | None, bytes | None, int]
"""Path, content before, content after (None: no file), mode after (before, if it is removed)."""


@dataclass(frozen=True, slots=True)
class Content:
    """One staged file: its description, and its bytes or the private file that holds them."""

    entry: Entry
    data: bytes | Path

    def read(self) -> bytes:
        """The bytes."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    def place(self, target: Path) -> None:
        """Make it a new file."""
        if isinstance(self.data, bytes):
            disk.write(target, self.data, self.entry.mode)
        else:
            disk.link(self.data, target, self.entry.mode)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a stage. Marks are equal if the same would be committed, however often it was written."""

    outcome: frozenset[tuple[str, Entry | None]]
    layer: dict[str, Content | None] = field(compare=False)


class Stage:
    """The files of one attempt; implements `agentd.handler.Files`.

    Args:
        owner: the configured handler that writes.
        base: the generation that was current when the attempt began; the commit need not build on the same.
        prefix: how nginx's configuration names the tree.
        room: the directory in which a private one for large files is made, on the tree's file system.
        reserved: paths that only agentd writes.
    """

    def __init__(
        self, owner: str, base: View, prefix: str, room: Path, reserved: Collection[str] = RESERVED
    ) -> None:
        self.owner = owner
        self._base = base
        self._prefix = prefix
        self._room = room
        self._reserved = reserved
        self._layer: dict[str, Content | None] = {}
        self._joined: list[Stage] = []
        self._writers: dict[str, str] = {}
        self._disowned: frozenset[str] = frozenset()
        self._scratch: disk.Scratch | None = None
        self._files = 0
        self._lock = Lock()

    # ------------------------------------------------------------------ Files

    def read(self, path: str) -> bytes | None:
        """The staged or current content, or None if there is no such file.

        Raises:
            TreeError: it should be there and cannot be read.
        """
        if path in self._layer:
            content = self._layer[path]
            with disk.errors(f"read the staged {path}"):
                return content.read() if content else None
        entry = self._base.files.get(path)
        return self._base.read(path) if entry and entry.owner not in self._disowned else None

    def path(self, path: str) -> Path | None:
        """A file on disk of the staged or current content, or None: to be read only, within the attempt.

        Raises:
            TreeError: what is staged in memory cannot be written down.
        """
        if path not in self._layer:
            entry = self._base.files.get(path)
            return self._base.directory / path if entry and entry.owner not in self._disowned else None
        content = self._layer[path]
        if content is None:
            return None
        if isinstance(content.data, Path):
            return content.data
        with disk.errors(f"write the staged {path} down"):
            target = self._new_file()
            disk.write(target, content.data, content.entry.mode)
        return target

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Stage a file.

        Raises:
            PermanentError: the path or mode cannot be, belongs to another handler, or is a directory.
        """
        data = bytes(data)
        self._put(path, Content(Entry.of(self.owner, data, check_mode(path, mode)), data))

    def write_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Stage a copy of a file on disk; the source may change or vanish afterwards.

        Raises:
            PermanentError: as for `write`.
            TreeError: it cannot be read or copied.
        """
        check_path(path, self._reserved)
        check_mode(path, mode)
        with disk.errors(f"stage {path}"):
            target = self._new_file()
            digest, size = _copy(source, target, mode)
        self._put(path, Content(Entry(self.owner, digest, size, mode), target))

    def remove(self, path: str) -> None:
        """Stage a removal; a file that is not there is not an error.

        Raises:
            PermanentError: the path cannot be, or belongs to another handler.
        """
        self._put(path, None)

    def paths(self, prefix: str = "") -> list[str]:
        """This handler's files, staged ones included, that begin with `prefix`, sorted."""
        merged = self._lay(self._base.files)
        return sorted(p for p, entry in merged.items() if entry.owner == self.owner and p.startswith(prefix))

    def reference(self, path: str) -> str:
        """How nginx's configuration names the file: relative to its own directory, through `current`."""
        return f"{self._prefix}/current/{path}"

    # ------------------------------------------------------------------ for who drives the attempt

    def disown(self, owner: str) -> None:
        """Stage the removal of all files of a handler that is not configured any more."""
        self._disowned |= {owner}

    def join(self, other: Stage) -> None:
        """Take over what another handler staged, under that one's name, so that both are committed as one.

        Raises:
            PermanentError: both staged the same path.
        """
        for path in other._layer:
            if path in self._layer:
                raise PermanentError(f"{path!r} is staged by {self._writer(path)!r} and by {other.owner!r}")
            self._writers[path] = other.owner
        self._layer |= other._layer
        self._joined.append(other)  # its large files live as long as it does

    def mark(self) -> Mark:
        """What is staged now, for `reset`."""
        merged = self._lay(self._base.files)
        outcome = frozenset((path, merged.get(path)) for path in differing(self._base.files, merged))
        return Mark(outcome, dict(self._layer))

    def reset(self, mark: Mark) -> None:
        """Drop what was staged since the mark."""
        self._layer = dict(mark.layer)

    @property
    def changed(self) -> tuple[str, ...]:
        """The paths whose content or mode would differ from the generation it began with, sorted."""
        return differing(self._base.files, self._lay(self._base.files))

    def diff(self) -> list[Difference]:
        """What would change, with content: (path, before, after, mode).

        Raises:
            TreeError: a file cannot be read.
        """
        return [(p, self._base.read(p), self.read(p), self._mode(p)) for p in self.changed]

    def close(self) -> None:
        """Drop what lies on disk; a stage that is forgotten does this, too."""
        if self._scratch is not None:
            self._scratch.close()

    # ------------------------------------------------------------------ for the tree

    def merge(self, files: Mapping[str, Entry]) -> dict[str, Entry]:
        """A generation's files with what is staged laid over them.

        Raises:
            PermanentError: another handler has come to own a path, or to need it as a directory.
        """
        for path in self._layer:
            self._check_owner(path, files)
        merged = self._lay(files)
        check_together(merged)
        return merged

    def content(self, path: str) -> Content | None:
        """What is staged under the path, if anything."""
        return self._layer.get(path)

    # ------------------------------------------------------------------ within

    def _put(self, path: str, content: Content | None) -> None:
        check_path(path, self._reserved)
        self._check_owner(path, self._base.files)
        if content is not None:
            check_beside(path, self._lay(self._base.files))
        self._layer[path] = content

    def _check_owner(self, path: str, files: Mapping[str, Entry]) -> None:
        entry = files.get(path)
        if entry is not None and entry.owner != self._writer(path) and entry.owner not in self._disowned:
            raise PermanentError(
                f"{path!r} belongs to the handler {entry.owner!r}: only that one may change it"
            )

    def _lay(self, files: Mapping[str, Entry]) -> dict[str, Entry]:
        """The layer over a generation's files; unchanged files keep their entry."""
        merged = {path: entry for path, entry in files.items() if entry.owner not in self._disowned}
        for path, content in self._layer.items():
            if content is None:
                merged.pop(path, None)
            elif not content.entry.same_file(merged.get(path)):
                merged[path] = content.entry
        return merged

    def _writer(self, path: str) -> str:
        return self._writers.get(path, self.owner)

    def _mode(self, path: str) -> int:
        content = self._layer.get(path)
        return (content.entry if content else self._base.files[path]).mode

    def _new_file(self) -> Path:
        with self._lock:
            if self._scratch is None:
                self._scratch = disk.Scratch(self._room)
                weakref.finalize(self, self._scratch.close)
            self._files += 1
            return self._scratch.path / str(self._files)


def differing(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> tuple[str, ...]:
    """The paths of handlers' files whose content or mode differs, sorted."""
    paths = {path for files in (before, after) for path, entry in files.items() if entry.owner is not None}
    return tuple(sorted(path for path in paths if not _same(before.get(path), after.get(path))))


def _same(before: Entry | None, after: Entry | None) -> bool:
    return before is not None and before.same_file(after)


def _copy(source: Path, target: Path, mode: int) -> tuple[str, int]:
    """Copy a file, piece by piece. Returns its SHA-256 in hex and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as old, target.open("xb") as new:
        while piece := old.read(disk.CHUNK):
            digest.update(piece)
            size += len(piece)
            new.write(piece)
        new.flush()
        os.fchmod(new.fileno(), mode)
    return digest.hexdigest(), size

"""What one attempt has staged, as a layer over the generation it began with.

It owns the layer, in memory (large files: in a private directory beside the generations), and who may write
what. It must not touch a generation: the tree does that when the stage is committed.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from agentd.errors import PermanentError
from agentd.tree import disk
from agentd.tree.generation import FileEntry, Generation
from agentd.tree.paths import RESERVED, Layout, check_mode, check_path, check_together


@dataclass(frozen=True, slots=True)
class Content:
    """One staged file: its description, and its bytes or the private file that holds them."""

    entry: FileEntry
    data: bytes | Path

    def read(self) -> bytes:
        """Its bytes."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    def place(self, target: Path) -> None:
        """Write it to a new file."""
        if isinstance(self.data, bytes):
            disk.write(target, self.data, self.entry.mode)
        else:
            disk.link(self.data, target, self.entry.mode)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a stage. Two marks are equal if the same would be committed, however it came to be staged.

    It shares its dictionaries with the stage, which copies them before it writes again.
    """

    outcome: dict[str, FileEntry | None]
    layer: dict[str, Content | None] = field(compare=False)


class Stage:
    """The files of one attempt; implements `agentd.handler.Files`.

    What a write, a removal or a mark costs does not depend on how many files there are.

    Args:
        owner: the configured handler that writes.
        base: the generation that was current when the attempt began; the commit may build on another.
        prefix: how nginx's configuration names the tree.
        room: the directory in which a private one for large files is made, on the tree's file system.
        reserved: paths that only agentd writes.
        secret_room: the same as `room` for secrets; None: that.
    """

    def __init__(
        self,
        owner: str,
        base: Generation,
        prefix: str,
        room: Path,
        reserved: Collection[str] = RESERVED,
        secret_room: Path | None = None,
    ) -> None:
        self.owner = owner
        self._base = base
        self._prefix = prefix
        self._room = room
        self._reserved = reserved
        self._secret_room = secret_room or room
        self._layer: dict[str, Content | None] = {}
        self._outcome: dict[str, FileEntry | None] = {}  # what differs from the base; None: no file
        self._marked = False  # a mark holds these two
        self._layout: Layout | None = None  # made for the first write
        self._joined: list[Stage] = []
        self._writers: dict[str, str] = {}
        self._disowned: frozenset[str] = frozenset()
        self._scratches: dict[Path, disk.Scratch] = {}
        self._files = 0
        self._lock = Lock()

    @property
    def generation(self) -> int:
        """The number of the generation that it began with, 0 before the first."""
        return self._base.number

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
        """A file on disk with the staged or current content, or None; only read it, and within the attempt.

        Raises:
            TreeError: what is staged in memory cannot be written to disk.
        """
        if path not in self._layer:
            entry = self._base.files.get(path)
            return self._base.directory / path if entry and entry.owner not in self._disowned else None
        content = self._layer[path]
        if content is None:
            return None
        if isinstance(content.data, Path):
            return content.data
        with disk.errors(f"write the staged {path} to disk"):
            target = self._new_file(self._secret_room if content.entry.secret else self._room)
            disk.write(target, content.data, content.entry.mode)
        return target

    def write(self, path: str, data: bytes, mode: int = 0o644, *, secret: bool = False) -> None:
        """Stage a file; see `agentd.handler.Files` for what `secret` means.

        Raises:
            PermanentError: the path or mode is not allowed, or the path is another handler's or a directory.
        """
        data = bytes(data)
        entry = FileEntry.of(self.owner, data, check_mode(path, mode), secret=secret)
        self._put(path, Content(entry, data))

    def write_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Stage a copy of a file on disk; the source may change or vanish afterwards.

        Raises:
            PermanentError: as for `write`.
            TreeError: it cannot be read or copied.
        """
        check_path(path, self._reserved)
        check_mode(path, mode)
        with disk.errors(f"stage {path}"):
            target = self._new_file(self._room)
            digest, size = disk.copy(source, target, mode)
        self._put(path, Content(FileEntry(self.owner, digest, size, mode), target))

    def remove(self, path: str) -> None:
        """Stage a removal; a file that is not there is not an error.

        Raises:
            PermanentError: the path is not allowed, or belongs to another handler.
        """
        self._put(path, None)

    def paths(self, prefix: str = "") -> list[str]:
        """This handler's files whose paths begin with `prefix`, staged ones included, sorted."""
        found = [path for path in self._base.files.keys() | self._layer.keys() if path.startswith(prefix)]
        return sorted(path for path in found if (now := self._entry(path)) and now.owner == self.owner)

    def reference(self, path: str) -> str:
        """How nginx's configuration names the file: relative to its own directory, through `current`."""
        return f"{self._prefix}/current/{path}"

    # ------------------------------------------------------------------ for the attempt

    def disown(self, owner: str) -> None:
        """Stage the removal of all files of a handler that is no longer configured; before the first mark."""
        self._disowned |= {owner}
        self._layout = None
        self._note(path for path, entry in self._base.files.items() if entry.owner == owner)

    def join(self, other: Stage) -> None:
        """Add what another handler staged, which remains that handler's, so that both are committed as one.

        Raises:
            PermanentError: both staged the same path.
        """
        for path in other._layer:
            if path in self._layer:
                raise PermanentError(f"{path!r} is staged by {self._writer(path)!r} and by {other.owner!r}")
            self._writers[path] = other.owner
        self._part_from_marks()
        self._layer |= other._layer
        self._layout = None
        self._note(other._layer)
        self._joined.append(other)  # its large files live as long as it does

    def mark(self) -> Mark:
        """What is staged now, for `reset`."""
        self._marked = True
        return Mark(self._outcome, self._layer)

    def reset(self, mark: Mark) -> None:
        """Drop what was staged since the mark."""
        dropped, self._layer, self._outcome, self._marked = self._layer, mark.layer, mark.outcome, True
        if dropped is mark.layer or self._layout is None:
            return
        paths = dropped.keys() | mark.layer.keys()
        moved = {path for path in paths if dropped.get(path, ...) is not mark.layer.get(path, ...)}
        for path in moved:
            self._layout.discard(path)
        for path in moved:
            if self._entry(path):
                self._layout.admit(path)

    @property
    def changed(self) -> tuple[str, ...]:
        """The paths whose content or mode would differ from those in the base generation, sorted."""
        return tuple(sorted(self._outcome))

    def entries(self) -> dict[str, tuple[FileEntry | None, FileEntry | None]]:
        """The handler's files and all that would change, by path: before and after; None: no file."""
        touched = self._base.files.keys() | self._layer.keys()
        both = {path: (self._base.files.get(path), self._entry(path)) for path in sorted(touched)}
        return {
            path: (before, after)
            for path, (before, after) in both.items()
            if path in self._outcome or (after and after.owner == self.owner)
        }

    def before(self, path: str) -> bytes | None:
        """The content in the generation that it began with, or None if there is no such file.

        Raises:
            TreeError: it cannot be read.
        """
        return self._base.read(path)

    def close(self) -> None:
        """Delete what it has on disk; this also happens when the stage is garbage-collected."""
        for scratch in self._scratches.values():
            scratch.close()

    # ------------------------------------------------------------------ for the tree

    def merge(self, files: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
        """A generation's files with what is staged on top.

        Raises:
            PermanentError: another handler owns a path by now, or needs it as a directory.
        """
        for path in self._layer:
            self._check_owner(path, files)
        merged = {path: entry for path, entry in files.items() if entry.owner not in self._disowned}
        for path, content in self._layer.items():
            if content is None:
                merged.pop(path, None)
            elif not content.entry.same_file(merged.get(path)):  # an unchanged file keeps its entry
                merged[path] = content.entry
        check_together(merged)
        return merged

    def content(self, path: str) -> Content | None:
        """What is staged for the path, or None."""
        return self._layer.get(path)

    # ------------------------------------------------------------------ within

    def _put(self, path: str, content: Content | None) -> None:
        check_path(path, self._reserved)
        self._check_owner(path, self._base.files)
        if content is None:
            if self._layout is not None:
                self._layout.discard(path)
        else:
            self._laid().admit(path)
        self._part_from_marks()
        self._layer[path] = content
        self._note([path])

    def _laid(self) -> Layout:
        if self._layout is None:
            paths = self._base.files.keys() | self._layer.keys()
            self._layout = Layout(path for path in paths if (now := self._entry(path)) and now.owner)
        return self._layout

    def _part_from_marks(self) -> None:
        if self._marked:
            self._layer, self._outcome, self._marked = dict(self._layer), dict(self._outcome), False

    def _note(self, paths: Iterable[str]) -> None:
        """Note how these paths, which were staged anew, differ from the base."""
        self._part_from_marks()
        for path in paths:
            before, now = self._base.files.get(path), self._entry(path)
            if before == now or (before and before.same_file(now)):
                self._outcome.pop(path, None)
            else:
                self._outcome[path] = now

    def _entry(self, path: str) -> FileEntry | None:
        """The file as it is now; one that is written as it was keeps its entry."""
        before = self._base.files.get(path)
        if before and before.owner in self._disowned:
            before = None
        if path not in self._layer:
            return before
        content = self._layer[path]
        if content is None:
            return None
        return before if content.entry.same_file(before) else content.entry

    def _check_owner(self, path: str, files: Mapping[str, FileEntry]) -> None:
        entry = files.get(path)
        if entry is not None and entry.owner != self._writer(path) and entry.owner not in self._disowned:
            raise PermanentError(
                f"{path!r} belongs to the handler {entry.owner!r}, and only that handler may change it"
            )

    def _writer(self, path: str) -> str:
        return self._writers.get(path, self.owner)

    def _new_file(self, room: Path) -> Path:
        with self._lock:
            if room not in self._scratches:
                disk.make_directory(room, 0o755 if room == self._room else 0o700)
                scratch = self._scratches[room] = disk.Scratch(room)
                weakref.finalize(self, scratch.close)
            self._files += 1
            return self._scratches[room].path / str(self._files)


def differing(before: Mapping[str, FileEntry], after: Mapping[str, FileEntry]) -> tuple[str, ...]:
    """The paths of handlers' files whose content or mode differs, sorted."""
    paths = {path for files in (before, after) for path, entry in files.items() if entry.owner is not None}
    alike = {path for path, entry in before.items() if entry.same_file(after.get(path))}
    return tuple(sorted(paths - alike))

"""The tree of generations: the only thing that writes a file which nginx reads.

    PATH/current -> generations/000042      nginx includes agentd/current/..., relative paths only
    PATH/generations/000042/                tickets/ blacklist/ ... agentd.conf manifest.json
    PATH/.lock                              held by whoever commits, in this process or another

It owns the flip: at every instant `current` leads to a complete, checked generation or is not there at all.
What a commit cannot finish leaves no trace. It must not signal nginx, and knows nothing of changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, TypeAlias

from agentd.apply import candidate, disk
from agentd.apply.generations import Generation, Generations
from agentd.apply.manifest import Entry, Manifest, View
from agentd.apply.mirror import Mirror
from agentd.apply.paths import RESERVED
from agentd.apply.stage import Stage, differing
from agentd.errors import TreeError

__all__ = ["Commit", "Generation", "Prepare", "Stage", "Tree"]

Prepare: TypeAlias = Callable[[int, tuple[str, ...]], None]
"""Called with the generation and the changed paths right before the flip; raising prevents it."""

_STAMP_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that was made.

    Attributes:
        generation: its number, now current.
        parent: the number that was current before, or 0.
        changed: the paths that differ from the parent's, agentd's own files left out.
        path: its directory.
    """

    generation: int
    parent: int
    changed: tuple[str, ...]
    path: Path


@dataclass(eq=False)
class Tree:
    """The tree at `path`. Safe for use from several threads and processes.

    Attributes:
        keep: how many generations are kept.
        check: called with the directory of a generation; raises if nginx would not take it.
        stamp: agentd's own files for a generation, by path; the same number must give the same bytes.
        mirror: where a copy of the current generation is held, or None.
        prefix: how nginx's configuration names the tree, relative to its own directory.
        clock: gives the unix time.
        patience: seconds to wait while another process commits.
    """

    path: Path
    _: KW_ONLY
    keep: int
    check: Callable[[Path], None]
    stamp: Callable[[int], Mapping[str, bytes]]
    mirror: Path | None
    prefix: str
    clock: Callable[[], float] = time.time
    patience: float = 120.0
    _mutex: RLock = field(init=False, repr=False, default_factory=RLock)
    _depth: int = field(init=False, repr=False, default=0)
    _burnt: int = field(init=False, repr=False, default=0)

    # ------------------------------------------------------------------ reading

    @property
    def current(self) -> int:
        """The number of the current generation, 0 if there is none."""
        try:
            return candidate.number_of((self.path / "current").readlink().name)
        except OSError:
            return 0

    def open_current(self) -> View:
        """The current generation, for reading; an empty one if there is none.

        Raises:
            TreeError: it is damaged.
        """
        number = self.current
        return self._generations.open(number) if number else self._generations.nothing()

    def read(self, path: str) -> bytes | None:
        """The current content of a file, or None if there is no such file.

        Raises:
            TreeError: the current generation is damaged.
        """
        return self.open_current().read(path)

    def manifest(self, number: int) -> dict[str, Any]:
        """What manifest.json of a generation says, `extra` beside its own fields.

        Raises:
            TreeError: there is no such generation, or it is damaged.
        """
        return self._generations.open(number).manifest.body()

    def generations(self) -> list[Generation]:
        """All generations in ascending order; one that cannot be read is logged and left out."""
        return list(self._generations.rows(self.current))

    def intact(self) -> bool:
        """Whether `current` leads to a generation whose files are all there. A few system calls.

        Before the first generation, with no copy of one in the mirror, there is nothing to miss.
        """
        number = self.current
        if number == 0:
            return Mirror(self.mirror).number == 0
        try:
            return self._generations.open(number).complete()
        except TreeError:
            return False

    # ------------------------------------------------------------------ staging and committing

    def stage(self, owner: str) -> Stage:
        """A layer over what is current, for the configured handler `owner`.

        Raises:
            TreeError: the current generation is damaged, and there is no copy to mend it from.
        """
        if self.intact():
            with suppress(TreeError):  # pruned between the two looks, by another process
                return self._stage(owner, self.open_current())
        with self.locked():
            return self._stage(owner, self._mended())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the tree still: no other thread and no other process commits. May be nested.

        Raises:
            TreeError: the tree cannot be written, or another process held it for too long.
        """
        with self._mutex, disk.errors(f"write the tree {self.path}"):
            if self._depth:
                yield
                return
            disk.make_directory(self.path)
            disk.make_directory(self._generations.directory)
            with disk.locked(self.path / ".lock", self.patience):
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def commit(
        self,
        stage: Stage,
        *,
        extra: Mapping[str, Any],
        prepare: Prepare,
        floor: int = 0,
        hold: Collection[int] = (),
    ) -> Commit | None:
        """Make what is staged, laid over what is current by now, the current generation.

        Args:
            stage: it stays as it is, and may be committed again.
            extra: JSON that the manifest remembers.
            prepare: notes the intent durably; from its return on, the commit happens or the call raises.
            floor: a number that was used already, even if no generation shows it.
            hold: generations that must not be pruned.

        Returns:
            The commit, or None when nothing differs.

        Raises:
            TreeError: it could not be written; the tree is as before.
            PermanentError: a staged path belongs to another handler by now.
            Exception: whatever `check` and `prepare` raise; the tree is as before.
        """
        with self.locked():
            base = self._mended()
            merged = stage.merge({p: entry for p, entry in base.files.items() if entry.owner is not None})
            changed = differing(base.files, merged)
            if not changed and self._stamped_alike(base):
                return None
            number = max(floor, self._burnt, base.number, *self._generations.numbers()) + 1
            stamped = self.stamp(number)
            merged |= {path: Entry.of(None, data, _STAMP_MODE) for path, data in stamped.items()}
            manifest = Manifest(number, self.clock(), base.number, changed, merged, extra)
            made = candidate.build(self._generations.directory, base, stage, stamped, manifest)
            self._flip_or_drop(View(made, manifest), prepare)
            self._generations.prune(self.keep, {number, base.number, *hold})
            return Commit(number, base.number, changed, made)

    def roll_back(self, to: int, *, prepare: Prepare, check: bool = True) -> None:
        """Make an existing generation, older or newer, the current one; if it is, nothing happens.

        Raises:
            TreeError: there is no such generation, it is damaged, or it cannot be flipped to.
            Exception: whatever the tree's `check` (unless told not to) and `prepare` raise.
        """
        with self.locked():
            if to == self.current:
                return
            view = self._generations.open(to)
            if not view.complete():
                raise TreeError(f"generation {to} is damaged: choose another from `agentd generations`")
            if check:
                self.check(view.directory)
            before = self._generations.find(self.current)
            prepare(to, differing(before.files, view.files))
            self._flip(to)
            Mirror(self.mirror).refresh(view)

    # ------------------------------------------------------------------ mending

    def recover(self) -> None:
        """Remove what a crash left unfinished, and let the mirror catch up; nothing else is touched.

        Raises:
            TreeError: the tree cannot be written.
        """
        with self.locked():
            disk.sweep(self._generations.directory)
            disk.sweep(self.path)
            mirror = Mirror(self.mirror)
            if self.current not in {0, mirror.number} and self.intact():
                mirror.refresh(self.open_current())

    def restore(self) -> int | None:
        """Mend a deleted or damaged tree from the mirror; an intact one stays as it is.

        Returns:
            The generation that is current now, or None if there is no copy to restore from.

        Raises:
            TreeError: the copy is damaged, or the tree cannot be written.
        """
        with self.locked():
            if self.current and self.intact():
                return self.current
            view = Mirror(self.mirror).view()
            if view is None:
                return None
            candidate.replicate(view, self._generations.directory, durable=True)
            self._flip(view.number)
            return view.number

    # ------------------------------------------------------------------ within

    @property
    def _generations(self) -> Generations:
        return Generations(self.path / "generations")

    def _stage(self, owner: str, base: View) -> Stage:
        return Stage(owner, base, self.prefix, self.path, RESERVED | self.stamp(0).keys())

    def _mended(self) -> View:
        """The current generation, restored first if it is damaged; the lock is held."""
        if not self.intact() and self.restore() is None:
            raise TreeError(
                f"generation {self.current} in {self.path} is damaged, and there is no copy of it:"
                " choose another with `agentd rollback N`"
            )
        return self.open_current()

    def _stamped_alike(self, base: View) -> bool:
        """Whether agentd's own files in `base` are what this version and configuration would write."""
        fresh = {p: Entry.of(None, data, _STAMP_MODE) for p, data in self.stamp(base.number).items()}
        return fresh == {path: entry for path, entry in base.files.items() if entry.owner is None}

    def _flip_or_drop(self, made: View, prepare: Prepare) -> None:
        before, number = self.current, made.number
        try:
            self.check(made.directory)
            self._burnt = number  # whatever happens from here on, the journal may know the number
            prepare(number, made.manifest.changes)
            self._flip(number)
        except BaseException:
            if self.current == before:
                disk.discard(made.directory)
            raise
        Mirror(self.mirror).refresh(made)

    def _flip(self, number: int) -> None:
        """Lead `current` to a generation, durably or not at all."""
        symlink, before = self.path / "current", None
        with suppress(OSError):
            before = symlink.readlink()
        disk.point(symlink, f"generations/{candidate.name(number)}")
        try:
            disk.sync([self.path])
        except OSError:
            if before is None:
                symlink.unlink()
            else:
                disk.point(symlink, str(before))
            raise

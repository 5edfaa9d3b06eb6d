"""The tree of generations: nothing else writes a file that nginx reads.

    PATH/current -> generations/000042      nginx includes agentd/current/..., relative paths only
    PATH/generations/000042/                tickets/ blacklist/ ... agentd.conf manifest.json
    PATH/.lock                              held during a commit, by this process or another
    PATH/.daemon                            held by the one daemon of the tree, for its life
    PATH/.mended                            there while nginx has not been told that files were healed
    PATH/secrets -> /run/agentd/secrets     where the contents of secret files are, if not in the generations

It owns the flip: at every instant `current` points to a complete, checked generation, or does not exist.
A commit that fails leaves no trace. It must not signal nginx, and knows nothing about changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any, Final, TypeAlias

from agentd.clock import unix_time
from agentd.errors import FormatError, TreeError
from agentd.tree import builder, disk, repair, secrets
from agentd.tree.generation import (
    FileEntry,
    Generation,
    Generations,
    Manifest,
    current_number,
    directory_name,
)
from agentd.tree.mirror import Mirror
from agentd.tree.paths import RESERVED
from agentd.tree.seals import Seals
from agentd.tree.stage import Stage, differing
from agentd.tree.vault import Vault

Prepare: TypeAlias = Callable[[int, tuple[str, ...]], None]
"""Called with the generation and the changed paths just before the flip; raising prevents it."""

_STAMP_MODE: Final = 0o644
_MENDED: Final = ".mended"
_NAMED: Final = 3
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit.

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


class _Reading:
    """One pass after the other over the files of what is current, a little at a time."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals
        self._number = 0
        self._pass: Iterator[str | None] = iter(())

    def go_on(self, generation: Generation, size: int) -> bool:
        """Read about this much. Returns whether the end was reached; the next time begins anew."""
        if generation.number != self._number:
            self._number, self._pass = generation.number, self._seals.read(generation)
        for _ in range(max(1, size // disk.CHUNK)):
            try:
                next(self._pass)
            except StopIteration:
                self._number = 0
                return True
        return False


@dataclass(eq=False)
class Tree:
    """The tree at `path`. Safe for use from several threads and processes.

    Attributes:
        keep: how many generations are kept.
        check: called with the directory of a generation; raises if nginx would not accept it.
        stamp: returns agentd's own files for a generation, by path; always the same for the same number.
        mirror: where a copy of the current generation is kept, or None.
        prefix: how nginx's configuration names the tree, relative to its own directory.
        vault: where the contents of secrets are.
        clock: returns the unix time.
        patience: seconds to wait while another process commits.
    """

    path: Path
    _: KW_ONLY
    keep: int
    check: Callable[[Path], None]
    stamp: Callable[[int], Mapping[str, bytes]]
    mirror: Path | None
    prefix: str
    vault: Vault = field(default_factory=Vault)
    clock: Callable[[], float] = unix_time
    patience: float = 120.0
    _mutex: RLock = field(init=False, repr=False, default_factory=RLock)
    _depth: int = field(init=False, repr=False, default=0)
    _burnt: int = field(init=False, repr=False, default=0)
    _link: str = field(init=False, repr=False)
    _generations: Generations = field(init=False, repr=False)
    _mirror: Mirror = field(init=False, repr=False)
    _seals: Seals = field(init=False, repr=False, default_factory=Seals)
    _reading: _Reading = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._link = str(self.path / "current")
        self._generations = Generations(self.path / "generations")
        self._mirror = Mirror(self.mirror, self.vault)
        self._reading = _Reading(self._seals)

    # ------------------------------------------------------------------ reading

    @property
    def current(self) -> int:
        """The number of the current generation; 0 if there is none."""
        return current_number(self._link)

    def open_current(self) -> Generation:
        """The current generation, for reading; number 0 if there is none.

        Raises:
            TreeError: it is damaged.
            FormatError: another version of agentd wrote it.
        """
        number = self.current
        return self._generations.open(number) if number else self._generations.nothing()

    def numbers(self) -> list[int]:
        """The numbers of the generations that are kept, ascending."""
        return self._generations.numbers()

    def manifest(self, number: int) -> Manifest:
        """What manifest.json of a generation says.

        Raises:
            TreeError: there is no such generation, or it is damaged.
        """
        return self._generations.open(number).manifest

    def intact(self) -> bool:
        """Whether `current` points to a generation whose files are as they were written.

        One lstat a file; only what was touched since the last time is read. Before the first generation, with
        no copy of one in the mirror, there is nothing to miss.

        Raises:
            FormatError: another version of agentd wrote it; it is neither intact nor damaged.
        """
        return self._sound() is not None

    def damage(self) -> str:
        """What is wrong with the current generation, in words; "" if nothing is, or there is none.

        Raises:
            TreeError: the tree is another user's, and this one may not read it: that is no damage.
            FormatError: another version of agentd wrote it.
        """
        number = self.current
        if number == 0:
            return f"{self._link} is missing" if self._mirror.number else ""
        try:
            current = self._generations.open(number)
        except TreeError as error:
            if isinstance(error.__cause__, PermissionError) and self._is_of_another_user():
                raise
            return str(error)
        found = self._seals.damaged(current)
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"generation {number}: {', '.join(found[:_NAMED])}{more}" if found else ""

    def _is_of_another_user(self) -> bool:
        return os.geteuid() not in (0, self.path.stat().st_uid)

    def read_some(self, size: int) -> bool:
        """Read the current generation again, about `size` bytes now and the rest the next times.

        Damage that lstat does not show is noticed so: by what it finds, `intact` is no longer true.

        Returns:
            Whether all of it has been read.
        """
        with suppress(TreeError, FormatError):
            return self._reading.go_on(self.open_current(), size)
        return True

    # ------------------------------------------------------------------ staging and committing

    def stage(self, owner: str, *, mend: bool = True) -> Stage:
        """A layer over what is current, for the configured handler `owner`.

        Args:
            owner: its name.
            mend: whether a damaged generation is restored first.

        Raises:
            TreeError: the current generation is damaged, and is not to be restored, or there is no copy.
            FormatError: another version of agentd wrote it.
        """
        base = self._sound()
        if base is None and not mend:
            raise TreeError(f"{self.path} is damaged, and `drift: report` leaves it so: {self.damage()}")
        if base is None:
            with self.locked():
                base = self._mended()
        reserved = RESERVED | self.stamp(0).keys()
        return Stage(owner, base, self.prefix, self.path, reserved, self.vault.directory)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other threads and processes from committing. May be nested.

        Raises:
            TreeError: the tree cannot be written, or another process held the lock for too long.
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
    ) -> Commit | None:
        """Make what is staged, laid over what is current by now, the current generation; then `tidy` is due.

        Args:
            stage: it is not changed, and may be committed again.
            extra: JSON that the manifest keeps.
            prepare: records the intent durably; once it has returned, the commit happens or the call raises.
            floor: a number that was already used, even if there is no such generation.

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
            lost = self.open_current().files.keys() - base.files.keys()
            changed = tuple(sorted({*differing(base.files, merged), *(lost - merged.keys())}))
            if not changed and self._stamped_alike(base):
                return None
            number = max(floor, self._burnt, base.number, *self._generations.numbers()) + 1
            stamped = self.stamp(number)
            merged |= {path: FileEntry.of(None, data, _STAMP_MODE) for path, data in stamped.items()}
            manifest = Manifest(number, self.clock(), base.number, changed, merged, extra)
            made, unsynced = builder.build(
                self._generations.directory, base, stage, stamped, manifest, self.vault
            )
            self._seals.relink(base)
            self._flip_or_drop(base.number, Generation(made, manifest), unsynced, prepare)
            return Commit(number, base.number, changed, made)

    def roll_back(self, to: int, *, prepare: Prepare, check: bool = True) -> None:
        """Make an existing generation, older or newer, the current one; if it is, nothing happens.

        Afterwards `tidy` is due.

        Raises:
            TreeError: there is no such generation, it is damaged, or it cannot be flipped to.
            Exception: whatever the tree's `check` (unless told not to) and `prepare` raise.
        """
        with self.locked():
            before = self._generations.find(self.current)
            if to == before.number:
                return
            target = self._generations.open(to)
            if lost := self._heal(target):
                raise TreeError(
                    f"generation {to} is damaged ({lost[0]}), and there is no sound copy of that: choose"
                    " another from `agentd generations`"
                )
            if check:
                self.check(target.directory)
            prepare(to, differing(before.files, target.files))
            self._flip(to)

    def tidy(self, hold: Collection[int] = ()) -> None:
        """Let the mirror catch up with what is current, and prune; what cannot be done is logged.

        It is apart from the commit so that nginx need not wait for it. Whoever dies before it loses nothing:
        `recover` lets the mirror catch up, and the next commit's prunes.

        Args:
            hold: generations that must not be pruned.

        Raises:
            TreeError: another process held the tree for too long.
            FormatError: another version of agentd wrote the tree.
        """
        with self.locked():
            current = self._sound()
            if current and current.number:
                self._mirror.follow(current)
                kept = {current.number, current.manifest.parent, *hold}
                self._generations.prune(self.keep, kept)
                self._prune_vault()
                self._seals.relink(current)

    # ------------------------------------------------------------------ secrets

    def secrets(self) -> frozenset[str]:
        """What the current generation has of secrets, by their digests.

        Raises:
            TreeError: it is damaged.
            FormatError: another version of agentd wrote it.
        """
        return frozenset(entry.sha256 for entry in self.open_current().files.values() if entry.secret)

    def retired(self, hold: Collection[int] = ()) -> list[bytes]:
        """The content of the secrets that an older generation or the mirror has, and the current one has not.

        Args:
            hold: generations that are left out.

        Raises:
            TreeError: the current generation is damaged.
        """
        current = self.open_current()
        held = self._mirror.held()
        found = set()
        for generation in (*self._older(current, hold), *((held,) if held else ())):
            for path in secrets.retired(generation, current):
                with suppress(OSError):
                    found.add((generation.directory / path).read_bytes())
        return sorted(found)

    def wipe(self, hold: Collection[int] = ()) -> None:
        """Remove those secrets, and finish what a crash interrupted; generations in `hold` stay as they are.

        Raises:
            TreeError: one cannot be removed, or another process held the tree for too long.
        """
        with self.locked():
            current = self._sound()
            if not current or not current.number:
                return
            self._mirror.drop_retired(current)
            for generation in self._older(current, hold):
                gone = secrets.retired(generation, current)
                whose = {entry.owner for entry in gone.values() if entry.owner is not None}
                self._refit(generation, current, whose)
            for number in self._unreadable(current):
                secrets.remove_private(self._generations.directory / directory_name(number))
            self._prune_vault()
            self._seals.relink(current)

    def touched(self, to: int) -> set[str]:
        """The handlers of whose files `roll_back` would change some; those with secrets keep theirs.

        Raises:
            TreeError: there is no such generation, or the current one is damaged.
            FormatError: another version of agentd wrote one of them.
        """
        target, current = self._generations.open(to), self.open_current()
        changed = differing(current.files, target.files)
        owners = {
            each.owner
            for path in changed
            for files in (current.files, target.files)
            if (each := files.get(path)) is not None and each.owner is not None
        }
        return owners - secrets.owners(current) - secrets.owners(target)

    def carry(self, to: int) -> set[str]:
        """Give a generation the files that handlers with secrets have now: those never go back.

        Returns:
            Whose files it has now; none if those of now are damaged.

        Raises:
            TreeError: there is no such generation, or it cannot be written.
        """
        with self.locked():
            target = self._generations.open(to)
            current = self._generations.find(self.current)
            if not current.number or current.number == to:
                return set()
            whose = secrets.owners(current) | secrets.owners(target)
            files = {path: entry for path, entry in current.files.items() if entry.owner in whose}
            if self._seals.damaged(_part(current, files)):
                return set()
            self._refit(target, current, whose)
            self._seals.relink(current)
            return whose

    def _older(self, current: Generation, hold: Collection[int]) -> Iterator[Generation]:
        """Generations before the current one. Those after it were rolled back: what they have is not old."""
        for number in self._generations.numbers():
            if number < current.number and number not in hold:
                with suppress(TreeError, FormatError):
                    yield self._generations.open(number)

    def _unreadable(self, current: Generation) -> Iterator[int]:
        for number in self._generations.numbers():
            if number < current.number:
                with suppress(FormatError):
                    try:
                        self._generations.open(number)
                    except TreeError:
                        yield number

    def _refit(self, generation: Generation, current: Generation, whose: Collection[str]) -> None:
        """Have a generation share the current files of these handlers; without any, finish what was begun."""
        if whose:
            before, generation = generation, secrets.refitted(generation, current, whose)
            if generation.manifest != before.manifest:
                secrets.rewrite(generation, self.path)
        files, wiped = generation.files, generation.manifest.wiped
        secrets.remove(generation, [path for path in wiped if path not in files])
        concerned = {path: entry for path, entry in files.items() if entry.owner in whose or path in wiped}
        if damaged := self._seals.damaged(_part(generation, concerned)):
            lost = repair.heal(generation, damaged, self._copies(generation.number), self.path, self.vault)
            secrets.remove(generation, lost)

    # ------------------------------------------------------------------ repairs

    def recover(self) -> None:
        """Remove what a crash left unfinished, and let the mirror catch up; nothing else is touched.

        Raises:
            TreeError: the tree cannot be written.
            FormatError: another version of agentd wrote the tree or the mirror; not even that was touched.
        """
        with self.locked():
            self._mirror.check_format()
            sound = self._sound()
            disk.sweep(self._generations.directory)
            disk.sweep(self.path)
            self._settle_secrets()
            if sound and sound.number:
                self._mirror.follow(sound)
            self._prune_vault()

    def _settle_secrets(self) -> None:
        """Bring the secrets of every generation, and of the mirror, to where `vault` has them."""
        self.vault.prepare()
        known = self.path / "secrets"
        former = {known.readlink()} if known.is_symlink() else set()
        for number in self._generations.numbers():
            with suppress(TreeError, FormatError):
                former |= self.vault.settle(self._generations.open(number), self.path)
        with suppress(FormatError):
            if self.mirror is not None and (held := self._mirror.held()):
                former |= self.vault.settle(held, self.mirror)
        for directory in former - {self.vault.directory}:
            Vault(directory).keep_only(())
        if self.vault.directory is None:
            known.unlink(missing_ok=True)
        elif former != {self.vault.directory}:
            disk.point(known, str(self.vault.directory))
        self.vault.remember(self._generations.find(self.current))

    def _prune_vault(self) -> None:
        """Remove from the vault what no generation has, nor the mirror."""
        if self.vault.directory is None:
            return
        found: list[FileEntry] = []
        try:
            if held := self._mirror.held():
                found += held.files.values()
            for number in self._generations.numbers():
                with suppress(TreeError):
                    found += self._generations.open(number).files.values()
        except FormatError:  # another version of agentd knows what that needs
            return
        self.vault.keep_only([entry for entry in found if entry.secret])

    def restore(self) -> int | None:
        """Restore a deleted or damaged tree from sound copies; an intact one stays as it is.

        What was mended is `mended` until somebody had nginx read it again. Secrets that a boot took from the
        vault stay lost, if this process does not know them: `stage` does as if there were no such files.

        Returns:
            The generation that is current now, or None if there is no copy to restore from.

        Raises:
            TreeError: the copy is damaged, or the tree cannot be written.
            FormatError: another version of agentd wrote the tree or the mirror.
        """
        with self.locked():
            sound = self._sound()
            if sound and sound.number:
                return sound.number
            found = self.damage()
            healed = self._heal_current()
            if healed and not self.lost():  # of what is lost, handlers make what they need, and say so
                _log().warning("tree.restored", path=str(self.path), generation=healed, damage=found)
            return healed

    def lost(self) -> dict[str, FileEntry]:
        """The secrets, by path, that a boot took from what is current; `stage` has restored all others.

        Raises:
            TreeError: its manifest is damaged.
        """
        current = self.open_current()
        damaged = self._seals.damaged(current)
        return {path: current.files[path] for path in damaged if self.vault.may_lack(current, path)}

    def _heal_current(self) -> int | None:
        number = self.current
        if number:
            with suppress(TreeError):
                current = self._generations.open(number)
                lost = self._heal(current)
                if all(self.vault.may_lack(current, path) for path in lost):
                    self._heal_others(number)
                    return number
        held = self._mirror.generation()
        if held is None:
            return None
        self._generations.find(held.number)  # what is replaced must not be another version's
        self._note_mended()
        builder.replicate(held, self._generations.directory, self.vault, durable=True)
        self._flip(held.number)
        return held.number

    def _heal_others(self, number: int) -> None:
        """Heal the others, which share files with it; what cannot be healed is refused when it is wanted."""
        for other in self._generations.numbers():
            if other != number:
                with suppress(TreeError, FormatError):
                    self._heal(self._generations.open(other))

    def _heal(self, generation: Generation) -> list[str]:
        """Replace what is damaged in a generation. Returns the paths for which there is no sound copy."""
        damaged = self._seals.damaged(generation)
        for _ in range(_ROUNDS):  # a directory that was replaced may hide other damage
            if not damaged:
                return []
            if generation.number == self.current:
                self._note_mended()
            lost = repair.heal(generation, damaged, self._copies(generation.number), self.path, self.vault)
            damaged = self._seals.damaged(generation)
            if lost:
                break
        return damaged

    def _copies(self, number: int) -> Iterator[Generation]:
        """Where files of a generation may have sound copies."""
        with suppress(TreeError, FormatError):
            if held := self._mirror.held():
                yield held
        for other in sorted(self._generations.numbers(), key=lambda one: abs(one - number)):
            with suppress(TreeError, FormatError):
                yield self._generations.open(other)

    @property
    def copied(self) -> bool:
        """Whether the mirror holds what is current; `tidy` lets it."""
        return self.mirror is None or self._mirror.number == self.current

    @property
    def mended(self) -> bool:
        """Whether files of what was current were healed, and nginx has not been told since."""
        return (self.path / _MENDED).exists()

    def _note_mended(self) -> None:
        (self.path / _MENDED).touch()

    def told_mended(self) -> None:
        """A reload is owed for what was healed; call it while `locked`."""
        (self.path / _MENDED).unlink(missing_ok=True)

    # ------------------------------------------------------------------ within

    def _sound(self) -> Generation | None:
        """The current generation, or None if it is damaged or missing."""
        number = self.current
        if number == 0:
            return None if self._mirror.number else self._generations.nothing()
        try:
            current = self._generations.open(number)
        except TreeError:
            return None
        return None if self._seals.damaged(current) else current

    def _mended(self) -> Generation:
        """The current generation, restored first if it is damaged, without lost secrets; the lock is held."""
        sound = self._sound()
        if sound is None:
            if self.restore() is None:
                raise TreeError(
                    f"generation {self.current} in {self.path} is damaged, and there is no copy of it:"
                    " choose another with `agentd rollback N`"
                )
            current = self.open_current()
            lost = set(self._seals.damaged(current))
            return _part(current, {path: one for path, one in current.files.items() if path not in lost})
        return sound

    def _stamped_alike(self, base: Generation) -> bool:
        """Whether agentd's own files in `base` are what this version with this configuration would write."""
        fresh = {p: FileEntry.of(None, data, _STAMP_MODE) for p, data in self.stamp(base.number).items()}
        return fresh == {path: entry for path, entry in base.files.items() if entry.owner is None}

    def _flip_or_drop(self, before: int, made: Generation, unsynced: Sequence[str], prepare: Prepare) -> None:
        number = made.number
        try:
            with disk.syncing(unsynced):  # nginx reads the page cache, and need not wait for the disk
                self.check(made.directory)
            self._burnt = number  # whatever happens from here on, the journal may know the number
            prepare(number, made.manifest.changes)
            self._flip(number)
        except BaseException:
            if self.current == before:
                disk.discard(made.directory)
            raise

    def _flip(self, number: int) -> None:
        """Point `current` at a generation, durably or not at all."""
        symlink, before = self.path / "current", None
        with suppress(OSError):
            before = symlink.readlink()
        disk.point(symlink, f"generations/{directory_name(number)}")
        try:
            disk.sync([self.path])
        except OSError:
            if before is None:
                symlink.unlink()
            else:
                disk.point(symlink, str(before))
            raise


def _part(generation: Generation, files: Mapping[str, FileEntry]) -> Generation:
    """The generation as if it had only these files."""
    return Generation(generation.directory, replace(generation.manifest, files=files))


def _log() -> Any:  # noqa: ANN401 (structlog's own type)
    import structlog  # noqa: PLC0415 (slow, and commands that only read the tree do without)

    return structlog.get_logger(__name__)

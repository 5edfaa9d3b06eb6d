"""A second copy of the current generation, from which a deleted or damaged tree is restored.

It owns its directory, which is in the state directory and has the tree's own shape: `current -> 000042`. It
shares no file with the tree: what damages one leaves the other alone.
A commit does not depend on it: if the mirror cannot be written, that is logged, and the commit holds.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import structlog

from agentd.errors import FormatError, TreeError
from agentd.tree import builder, disk, secrets
from agentd.tree.generation import Generation, directory_name, number_of
from agentd.tree.paths import MANIFEST
from agentd.tree.seals import Seals
from agentd.tree.vault import Vault

_log = structlog.get_logger(__name__)


class Mirror:
    """The copy in `path`; with None there is never one. Of secrets in the vault it has links."""

    def __init__(self, path: Path | None, vault: Vault) -> None:
        self._path = path
        self._vault = vault
        self._seals = Seals()

    def follow(self, generation: Generation) -> None:
        """Hold this generation instead of the one before, unless it does already; a failure is logged.

        What is held is made anew if it is damaged, or shares files with the tree, as older versions had it.
        """
        if self._path is None:
            return
        try:
            held = self.whole(apart_from=generation)
            if held is None or not _same(held, generation):
                with disk.errors("copy the tree"):
                    disk.make_directory(self._path, 0o700)
                builder.replicate(generation, self._path, self._vault, durable=False, held=held)
                disk.point(self._path / "current", directory_name(generation.number))
            disk.sweep(self._path)
            kept = {0, generation.number}
            earlier = [entry for entry in self._path.iterdir() if number_of(entry.name) not in kept]
            for entry in earlier:
                disk.discard(entry)
            if (made := self.held()) and (earlier or made != held):
                self._seals.relink(made)
        except (OSError, TreeError, FormatError) as error:
            _log.warning("tree.mirror_failed", path=str(self._path), error=str(error))

    def drop_retired(self, current: Generation) -> None:
        """Remove the copy if it has a secret that the current generation has no more: it could not follow.

        Raises:
            OSError: it cannot be removed.
        """
        held = self.held()
        if self._path is None or held is None or not secrets.retired(held, current):
            return
        _log.warning("tree.mirror_dropped", path=str(self._path), generation=held.number)
        (self._path / "current").unlink()
        disk.discard(held.directory)

    @property
    def number(self) -> int:
        """The generation that is held, 0 if none."""
        with suppress(OSError):
            if self._path is not None:
                return number_of((self._path / "current").readlink().name)
        return 0

    def check_format(self) -> None:
        """Make sure that no other agentd wrote what is held, so that it may be replaced.

        Raises:
            FormatError: another one did.
        """
        with suppress(OSError, ValueError):  # none, or damaged
            if self._path is not None:
                Generation.open(self._path / directory_name(self.number))

    def held(self) -> Generation | None:
        """The generation that is held, whatever its files are by now; None if none can be read."""
        with suppress(OSError, ValueError):
            if self._path is not None and self.number:
                return Generation.open(self._path / directory_name(self.number))
        return None

    def whole(self, apart_from: Generation | None = None) -> Generation | None:
        """The generation that is held, if it is undamaged and shares no file with another; else None.

        Raises:
            FormatError: another agentd wrote it.
        """
        with suppress(TreeError):
            held = self.generation()
            if held is not None and not (apart_from and _share(held, apart_from)):
                return held
        return None

    def generation(self) -> Generation | None:
        """The generation that is held, verified to be undamaged, or None if none is held.

        Secrets that a boot may lose may be missing.

        Raises:
            TreeError: it is damaged.
            FormatError: another agentd wrote it.
        """
        number = self.number
        if self._path is None or number == 0:
            return None
        try:
            held = Generation.open(self._path / directory_name(number))
            damaged = [one for one in self._seals.damaged(held) if not self._vault.may_lack(held, one)]
            genuine = held.number == number and not damaged
        except (OSError, ValueError) as error:
            raise TreeError(
                f"the copy of generation {number} in {self._path} cannot be read: {error}"
            ) from error
        if not genuine:
            raise TreeError(
                f"the copy of generation {number} in {self._path} is damaged: delete that directory"
            )
        return held


def _same(held: Generation, generation: Generation) -> bool:
    try:
        return (
            held.number == generation.number
            and (held.directory / MANIFEST).read_bytes() == (generation.directory / MANIFEST).read_bytes()
        )
    except OSError:
        return False


def _share(held: Generation, other: Generation) -> bool:
    return any(
        _inode(held.directory / path) == _inode(other.directory / path)
        for path in held.files.keys() & other.files.keys()
    )


def _inode(path: Path) -> object:
    try:
        found = path.lstat()
    except OSError:
        return object()  # equal to no other
    return found.st_dev, found.st_ino

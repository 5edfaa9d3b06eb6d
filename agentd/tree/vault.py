"""The contents of secret files, outside the generations: in memory (/run/agentd/secrets), never on the disk.

    SECRETS/9f86d081...0a08-0600        the content with this SHA-256, with this mode

A generation, and the mirror, then have a link in its place. After a boot the directory is empty: what it held
is lost, and the handlers make it anew. It owns that directory; which contents are needed, the tree decides.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from agentd.errors import TreeError
from agentd.tree import disk
from agentd.tree.generation import FileEntry, Generation

_NAME: Final = re.compile(r"[0-9a-f]{64}-[0-7]{4}")
_REMEMBERED: Final = 1 << 20
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


def located(file: str | Path, entry: FileEntry) -> str:
    """Where the content of a file of a generation is: at its path, or where a link there leads."""
    if entry.secret:
        with suppress(OSError):
            target = os.readlink(file)  # noqa: PTH115 (looked at often)
            if target.startswith("/") and target.rpartition("/")[2] == _name(entry):
                return target
    return str(file)


def _name(entry: FileEntry) -> str:
    return f"{entry.sha256}-{entry.mode:04o}"


class Vault:
    """The directory; with None, secrets are in the generations. Changed only while the tree is locked.

    What this process has put there it also remembers, so that it can restore the directory.

    Args:
        directory: an absolute path, of one tree alone.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self._remembered: dict[str, bytes] = {}

    def keeps(self, entry: FileEntry) -> bool:
        """Whether the content of this file belongs here."""
        return self.directory is not None and entry.secret

    def path(self, entry: FileEntry) -> Path:
        """Where the content of such a file belongs."""
        return (self.directory or Path("/")) / _name(entry)

    def may_lack(self, generation: Generation, path: str) -> bool:
        """Whether this file of a generation may be lost by a boot, which is no damage to the disk."""
        entry = generation.files[path]
        file = generation.directory / path
        return self.keeps(entry) or (entry.secret and located(file, entry) != str(file))

    def prepare(self) -> None:
        """Make the directory if it is missing.

        Raises:
            TreeError: it cannot be made, or others than its owner may write to it.
        """
        if self.directory is None:
            return
        with disk.errors(f"use the directory of secrets {self.directory}"):
            disk.make_directory(self.directory, 0o700)
            found = self.directory.stat()
        if found.st_mode & _WRITABLE or found.st_uid not in (0, os.geteuid()):
            raise TreeError(f"{self.directory} (tree.secrets) can be changed by others: `chmod 0700` it")

    # ------------------------------------------------------------------ contents

    def put(self, entry: FileEntry, data: bytes) -> None:
        """Store a content, unless it is there.

        Raises:
            OSError: it cannot be written.
            TreeError: as `prepare`.
        """
        self._remember(entry, data)
        if self.holds(entry):
            return
        self.prepare()
        target = self.path(entry)
        new = target.with_name(f".new-{target.name}")
        new.unlink(missing_ok=True)
        disk.write(new, data, entry.mode)
        disk.sync([new])
        new.rename(target)

    def take(self, entry: FileEntry, source: str | Path) -> bool:
        """Store the content of a file, unless it is there. Returns whether it is there now."""
        if self.holds(entry):
            return True
        data = _content(source, entry)
        if data is None:
            data = self._remembered.get(_name(entry))
        if data is None:
            return False
        self.put(entry, data)
        return True

    def holds(self, entry: FileEntry) -> bool:
        """Whether the content is there, undamaged, with its mode."""
        path = self.path(entry)
        try:
            found = path.lstat()
        except OSError:
            return False
        return stat.S_IMODE(found.st_mode) == entry.mode and _content(path, entry) is not None

    def remember(self, generation: Generation) -> None:
        """Be able to restore what this generation has here."""
        for entry in generation.files.values():
            if self.keeps(entry) and _name(entry) not in self._remembered:
                data = _content(self.path(entry), entry)
                if data is not None:
                    self._remember(entry, data)

    def _remember(self, entry: FileEntry, data: bytes) -> None:
        if sum(map(len, self._remembered.values())) + len(data) <= _REMEMBERED:
            self._remembered[_name(entry)] = data

    def keep_only(self, entries: Collection[FileEntry]) -> None:
        """Remove all contents but these.

        Raises:
            OSError: one cannot be removed.
        """
        kept = {_name(entry) for entry in entries}
        self._remembered = {name: data for name, data in self._remembered.items() if name in kept}
        if self.directory is None or not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if path.name not in kept and _NAME.fullmatch(path.name.removeprefix(".new-")):
                path.unlink()
        disk.sweep(self.directory)

    # ------------------------------------------------------------------ moving

    def settle(self, generation: Generation, room: Path) -> set[Path]:
        """Bring the secrets of a generation to where they belong, file by file.

        It is the one thing that is changed within a generation, and does not change what anybody reads there.

        Args:
            generation: which one.
            room: a directory on its file system, for what is not complete yet.

        Returns:
            The other directories in which its secrets were.

        Raises:
            OSError: one cannot be moved; those before it are.
        """
        moved: list[tuple[FileEntry, Path, Path]] = []
        for path, entry in generation.files.items():
            file = generation.directory / path
            at, home = Path(located(file, entry)), self.path(entry) if self.directory else file
            if entry.secret and at != home:
                moved.append((entry, file, at))
        if moved:
            with closing(disk.Scratch(room)) as scratch:
                new = scratch.path / "new"
                for entry, file, at in moved:
                    if self._lay(entry, at, new, was_linked=at != file):
                        new.rename(file)
                for directory in {file.parent for _, file, _ in moved}:
                    with suppress(FileNotFoundError):
                        disk.sync([directory])
        return {at.parent for _, file, at in moved if at != file}

    def _lay(self, entry: FileEntry, at: Path, new: Path, *, was_linked: bool) -> bool:
        """Make the link or file that belongs in the place of another; whether there is one to make."""
        data = _content(at, entry)
        if self.directory is None:
            if data is not None:
                disk.write(new, data, entry.mode)
                disk.sync([new])
            return data is not None
        if data is not None:
            self.put(entry, data)
        if data is None and not was_linked:
            return False  # damaged: healing it makes the link
        new.symlink_to(self.path(entry))
        return True


def _content(file: str | Path, entry: FileEntry) -> bytes | None:
    """The bytes of a file, if they are those of the entry."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as found:
            data = found.read(entry.size + 1)
    except OSError as error:
        if error.errno in (errno.EIO, errno.EMFILE, errno.ENFILE):
            raise
        return None
    return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None

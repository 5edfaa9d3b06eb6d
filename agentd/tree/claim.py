"""One tree, and one state directory, has one daemon: a lock in the directory that it holds for its life.

It owns that lock alone. Commands do without it: what keeps commits apart is another lock, held for a moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentd.errors import TakenError
from agentd.tree import disk

_LONGEST: Final = 4096
_STEP: Final = 0.02


class Claim:
    """The claim to a directory, which is made if it is missing.

    Args:
        directory: the tree, or the state directory.
        claimant: who claims it, in words; whoever is refused reads them.
        what: what it is, in words.
        setting: where the configuration names it.
        name: of the lock.
        mode: of the directory, if it is made.
        patience: seconds to wait for somebody who only looks whether the lock is held.
    """

    def __init__(  # noqa: PLR0913 (all named at the two calls)
        self,
        directory: Path,
        claimant: str,
        *,
        what: str = "tree",
        setting: str = "tree.path",
        name: str = ".daemon",
        mode: int = 0o755,
        patience: float = 0.0,
    ) -> None:
        self._path = directory / name
        self._claimant = claimant.encode()[:_LONGEST]
        self._what, self._setting = what, setting
        self._mode, self._patience = mode, patience
        self._descriptor = -1

    def take(self) -> None:
        """Make sure that the claim is held; cheap if it is.

        Somebody may have deleted the directory, and the lock with it: then it is taken again.

        Raises:
            TakenError: another daemon uses it.
            TreeError: the lock cannot be made; try again later.
        """
        if self._held():
            return
        self.release()
        with disk.errors(f"use the {self._what} {self._path.parent}"):
            disk.make_directory(self._path.parent, self._mode)
            self._descriptor = self._open()
            deadline = time.monotonic() + self._patience
            while not self._locked():
                if time.monotonic() >= deadline:
                    raise self._taken()
                time.sleep(_STEP)
        with suppress(OSError):  # read-only, or full: then it has no words
            self._path.write_bytes(self._claimant)

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _taken(self) -> TakenError:
        holder = os.pread(self._descriptor, _LONGEST, 0).decode(errors="replace") or "of unknown pid"
        self.release()
        return TakenError(
            f"{self._path.parent}: another agentd is already using this {self._what} ({holder}): one"
            f" {self._what} has one daemon; stop that one, or set another `{self._setting}`"
        )

    def release(self) -> None:
        """Give it up; doing so twice is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        """Only for reading: a file that is open for writing keeps a file system from becoming read-only."""
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, "Not a file", str(self._path))
        return descriptor

    def _held(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return False

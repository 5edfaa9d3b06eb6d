"""Keeps the tree and the journal sound while the daemon runs: notices loss and damage, and repairs them.

Called by the main loop about once a second. Owns what is known to be wrong with them; the agent decides what
follows from that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from agentd.apply.commit import Committer
from agentd.backoff import Backoff
from agentd.config.load import Config
from agentd.errors import DamagedError, JournalError, TreeError
from agentd.journal.history import tidy
from agentd.journal.journal import Journal

_TIDY_EVERY: Final = 3600.0
_COPY_EVERY: Final = 60.0
_READ_EVERY: Final = 300.0
_READ_AT_ONCE: Final = 8 << 20  # bytes
_MEND: Final = Backoff(1.0, 60.0)

_log = structlog.get_logger()


class Upkeep:
    """The care for one tree and one journal.

    Args:
        committer: commits to the tree.
        journal: the node's journal.
        say: shows a sentence as the service's status.

    Attributes:
        damage: what is wrong with the tree; "" if nothing is.
        trouble: why the journal cannot be written or receives nothing; "" if all is well.
    """

    def __init__(self, committer: Committer, journal: Journal, say: Callable[[str], None]) -> None:
        self.damage = ""
        self.trouble = ""
        self._committer = committer
        self._journal = journal
        self._say = say
        self._mend_at = self._read_at = self._copy_at = self._tidy_at = 0.0  # monotonic
        self._mends = 0
        self._moved_to: int | None = None  # where `current` was in the last round, unknown to the journal

    def round(self, config: Config, provers: Sequence[str]) -> None:
        """Check and repair the journal and the tree, and delete what is no longer needed.

        Args:
            config: the configuration in use.
            provers: the configured handlers that prove what nginx serves.

        Raises:
            DamagedError: the content of the journal is damaged; only a restart helps.
            TreeError, JournalError: something cannot be repaired now; the next round tries again.
        """
        self._check_journal()
        self._check_tree(mend=config.drift == "mend")
        self._check_current()
        self._committer.owe_reload(provers)
        self._committer.trim()
        self._committer.wipe()
        now = time.monotonic()
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY
            tidy(self._journal, keep=config.journal.keep, replayable=config.journal.replayable)

    def _check_tree(self, *, mend: bool) -> None:
        """Restore a tree that was deleted or damaged; reread all of it from time to time."""
        tree, now = self._committer.tree, time.monotonic()
        if now >= self._read_at and tree.read_some(_READ_AT_ONCE):
            self._read_at = now + _READ_EVERY
        found = tree.damage()
        if found != self.damage:
            self.damage, self._mends = found, 0
            if found:
                _log.error("tree.damaged", path=str(tree.path), damage=found)
        if found and mend and (self._mends == 0 or now >= self._mend_at):
            self._mends += 1
            self._mend_at = now + _MEND.delay(self._mends)
            if tree.restore() is None:
                raise TreeError(
                    f"{found}: there is no sound copy; make another generation current: `agentd rollback N`"
                )
        if now >= self._copy_at:
            self._copy_at = now + _COPY_EVERY
            if not tree.copied:
                self._committer.tidy()

    def _check_current(self) -> None:
        """Follow a `current` that was moved by hand; what was committed since is not in force any more."""
        current = self._committer.tree.current
        moved = not self.damage and current != self._committer.commits.current()
        # Another process that commits moves it just before the journal knows.
        if moved and self._moved_to == current:
            self._committer.follow()
        self._moved_to = current if moved else None

    def _check_journal(self) -> None:
        """Restore a deleted journal from the open file, and note whether it can be written.

        Raises:
            DamagedError: its content is damaged.
        """
        database = self._journal.database
        if database.lost():
            _log.error("journal.lost", path=str(database.path))
            database.rescue()
            _log.warning("journal.rescued", path=str(database.path))
            self._copy_at = 0.0  # the tree's copy may have been deleted with it
        if damage := database.damage():
            raise DamagedError(
                f"{database.path}: the journal is damaged ({damage}): agentd ends; its next start sets the"
                " file aside and salvages what can be read of it"
            )
        if database.trouble:
            with suppress(JournalError):
                database.probe()
        trouble = database.trouble or self._journal.refusal()
        if bool(trouble) != bool(self.trouble):
            tell = _log.error if trouble else _log.info
            tell("journal.trouble", path=str(database.path), trouble=trouble)
            self._say(trouble or "watching")
        self.trouble = trouble

"""The journal's file: one SQLite database, private to agentd's user, written one transaction at a time.

Owns the connection, the check for damage, the rescue of a deleted file, its size, and the translation of
SQLite's errors. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from agentd.errors import JournalError
from agentd.journal.damage import (
    damage_of,
    drop_companions,
    forget_aside,
    is_damage,
    reason_of,
    salvage,
    same_file,
    set_aside,
)
from agentd.journal.schema import (
    FORMAT,
    INDEX,
    PRAGMAS,
    SCHEMA,
    UPGRADES,
    read_format,
    refuse_another_kind,
    tables,
)

_QUICK: Final = 0.2  # seconds: a check of the file that takes no longer may run at any time
_SHARE: Final = 50  # seconds until the next check, for each second that the last one took beyond that
_FREE: Final = 8  # vacuum a file of an earlier version once its free part exceeds 1/8 of the used part


class Database:
    """The open file. Any thread may call any method; `transaction` must not be nested.

    Args:
        path: the file.
        opened: whether to open it right away; otherwise call `open`.

    Attributes:
        trouble: why the last transaction could not be written; "" if it could.
        owes_flush: whether the write-ahead log must be emptied, since it may still contain wiped payloads.

    Raises:
        JournalError: from every method, if the file cannot be opened, read or written.
        FormatError: on opening, if another version of agentd or another program wrote the file.
    """

    def __init__(self, path: Path, *, opened: bool = True) -> None:
        self.path = path
        self.trouble = ""
        self.owes_flush = False
        self._lock = threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._opens = 0
        self._files: dict[str, os.stat_result] = {}  # the file and its companions, as they were found
        self._checked: tuple[int, int] = (0, 0)
        self._check_at = 0.0
        self._broken = ""
        if opened:
            self.open()

    def open(self, *, mend: bool = False) -> str:
        """Open the file, unless it is open.

        Args:
            mend: set a damaged file aside, and start a new one with what can be salvaged from it.

        Returns:
            What was wrong and what was done about it; "" if nothing was.
        """
        with self._lock:
            if self._open is not None:
                return ""
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._finish_rescue()
                damage = damage_of(self.path, {0, FORMAT, *UPGRADES}, tables()) if mend else ""
                aside = set_aside(self.path) if damage else None
                refuse_another_kind(self.path)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
                self._connect()
                if aside is None:
                    return ""
                saved = salvage(aside, self._db)
            except (OSError, sqlite3.Error) as error:
                self._shut()
                raise JournalError(f"{self.path}: the journal cannot be opened: {error}") from error
            return f"{damage}; set aside as {aside}, {saved} rows of it salvaged"

    def _connect(self) -> None:
        found = read_format(self.path)
        self._open = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        self._opens += 1
        self._open.row_factory = sqlite3.Row
        if found == 0:  # only takes effect while the file is empty
            self._open.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in PRAGMAS:
            self._open.execute(f"PRAGMA {pragma}")
        if found != FORMAT:
            self._upgrade(found)
        with suppress(sqlite3.OperationalError):  # read-only: works without the index, only slower
            self._open.execute(INDEX)
        self._open.execute("SELECT 1 FROM sqlite_master").fetchone()  # creates the companion files
        self.trouble = self._broken = ""
        self._files, self._checked = {}, (0, 0)
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self._files[suffix] = self._beside(suffix).stat()

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._open is not None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._open is None:
            raise JournalError(f"{self.path}: the journal is not open")
        return self._open

    def _shut(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    # ------------------------------------------------------------------ what happens to the file

    def lost(self) -> bool:
        """Whether the file or one of its companions (-wal, -shm) was deleted or replaced. Cheap."""
        with self._lock:
            if self._open is None:
                return False
            return not all(same_file(self._beside(suffix), known) for suffix, known in self._files.items())

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}{suffix}")

    def damage(self) -> str:
        """What is wrong with the content of the file; "" if no damage is known.

        Reads the whole file if it has changed on disk (SQLite changes it only at checkpoints). It does so
        without the lock, and less often the longer it takes.
        """
        with self._lock:
            db = self._open
            if db is None or self._broken:
                return self._broken
            try:
                found = self.path.stat()
            except OSError:
                return ""
            written, began = (found.st_mtime_ns, found.st_size), time.monotonic()
            if written == self._checked or began < self._check_at:
                return ""
            self._checked = written
        broken = damage_of(self.path, {FORMAT}, tables())
        with self._lock:
            took = time.monotonic() - began
            self._check_at = began + _SHARE * max(0.0, took - _QUICK)
            if self._open is db:  # it is still the same file
                self._broken = broken
            return self._broken

    def rescue(self) -> None:
        """Copy the file, which was deleted but is still open, to a new one at its path, and use that."""
        with self._lock:
            fresh = self._rescued
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh.unlink(missing_ok=True)
                drop_companions(fresh)
                os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                with closing(sqlite3.connect(fresh)) as copy:
                    self._db.backup(copy)
                if damage := damage_of(fresh, {FORMAT}, tables()):
                    self._broken = damage
                    raise JournalError(f"{self.path}: the journal cannot be written again: {damage}")
                self._shut()  # first, since closing makes SQLite delete the companions by name
                if os.path.lexists(self.path):
                    set_aside(self.path)
                drop_companions(self.path)
                fresh.rename(self.path)
                self._connect()
            except (OSError, sqlite3.Error) as error:
                raise JournalError(f"{self.path}: the journal cannot be written again: {error}") from error

    @property
    def _rescued(self) -> Path:
        return self.path.with_name(f".{self.path.name}.rescued")

    def _finish_rescue(self) -> None:
        """Finish or undo a rescue that a crash or a full disk interrupted before the rename."""
        fresh = self._rescued
        if fresh.exists() and not os.path.lexists(self.path) and read_format(fresh) == FORMAT:
            drop_companions(self.path)
            fresh.rename(self.path)
        fresh.unlink(missing_ok=True)  # if it is still here, it was incomplete
        drop_companions(fresh)

    def forget_aside(self, before: float) -> None:
        """Delete damaged files that were set aside before this unix time."""
        try:
            forget_aside(self.path, before)
        except OSError as error:
            raise JournalError(f"{self.path}: an old damaged journal cannot be removed: {error}") from error

    def probe(self) -> None:
        """Try to write; `trouble` then says whether it is possible."""
        with self.transaction() as db:
            db.execute(f"PRAGMA user_version = {FORMAT}")

    def _upgrade(self, found: int) -> None:
        """Upgrade the file to the current format, in one transaction, so that a crash leaves the old one."""
        steps = [f"{step};" for number in range(found, FORMAT) if found for step in UPGRADES[number]]
        self._db.executescript(f"BEGIN IMMEDIATE; {''.join(steps)} {SCHEMA} COMMIT;")

    def close(self) -> None:
        """Close the file; every later call raises JournalError."""
        with self._lock:
            self._shut()

    @contextmanager
    def transaction(self, *, synced: bool = False) -> Iterator[sqlite3.Connection]:
        """Write everything in the block or, if it raises, nothing.

        A written transaction survives a kill. A power cut may undo the transactions since the last `synced`
        one: changes that were received but not acted upon, or outcomes that the tree still shows.
        """
        with self._lock:
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
                self.trouble = ""
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._undo()
                self._note(error)
                self.trouble = f"the journal cannot be written: {reason_of(error)}"
                raise JournalError(f"{self.path}: {self.trouble}") from error
            except BaseException:
                self._undo()
                raise

    def _note(self, error: Exception) -> None:
        if is_damage(error):
            self._broken = reason_of(error)

    def _undo(self) -> None:
        with suppress(sqlite3.Error, JournalError):  # closed, or rolled back by SQLite itself
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:  # noqa: ANN401 (what SQLite binds)
        """The rows that a SELECT finds."""
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._note(error)
                raise JournalError(f"{self.path}: the journal cannot be read: {reason_of(error)}") from None

    def state(self) -> tuple[int, ...]:
        """Differs from an earlier one if anything was written since, by this process or another. Cheap."""
        with self._lock:
            others = int(self.rows("PRAGMA data_version")[0][0])  # counts only what other connections write
            return self._opens, others, self._db.total_changes

    def flush(self, patience: float = 10.0) -> bool:
        """Empty the write-ahead log, which may still contain older versions of wiped rows.

        Args:
            patience: seconds to wait for another process that is reading.

        Returns:
            Whether it is empty now.
        """
        with self._lock:
            self.rows(f"PRAGMA busy_timeout={round(patience * 1000)}")
            try:
                return not self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
            finally:
                self.rows("PRAGMA busy_timeout=10000")

    # ------------------------------------------------------------------ its size

    def size(self) -> int:
        """Bytes on disk, including the write-ahead log."""
        return self._pages("page_count") + self.logged()

    def used(self) -> int:
        """Bytes of the file that are in use."""
        return self._pages("page_count") - self._pages("freelist_count")

    def logged(self) -> int:
        """Bytes of the write-ahead log, which cannot be emptied while another process reads."""
        try:
            return self._beside("-wal").stat().st_size
        except OSError:
            return 0

    def shrink(self) -> None:
        """Return free pages to the file system, and empty the write-ahead log unless somebody reads."""
        with self._lock:
            if self.rows("PRAGMA auto_vacuum")[0][0]:
                self._script("PRAGMA incremental_vacuum")
            elif self._pages("freelist_count") > self.used() / _FREE:  # an earlier version created it
                self._script("PRAGMA auto_vacuum=INCREMENTAL; VACUUM")
            self.flush(patience=0.1)

    def _script(self, sql: str) -> None:
        try:
            self._db.executescript(sql)
        except sqlite3.Error as error:
            self._note(error)
            raise JournalError(f"{self.path}: the journal cannot be shrunk: {error}") from error

    def _pages(self, which: str) -> int:
        with self._lock:
            return int(self.rows(f"PRAGMA {which}")[0][0]) * int(self.rows("PRAGMA page_size")[0][0])

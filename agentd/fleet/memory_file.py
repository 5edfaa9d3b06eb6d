"""The file behind `Memory`: one SQLite database, `fleet.db` in the state directory.

Owns the connection, the schema, and what happens to a damaged file: it is set aside and replaced by an empty
one, since Consul can supply the content again. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

from agentd.errors import JournalError
from agentd.journal.damage import forget_aside, is_damage, reason_of, set_aside

_ASIDE: Final = 7 * 86400.0  # seconds for which a damaged file is kept, at least until the next start
_FORMAT: Final = 1
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, highest INTEGER NOT NULL, head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    name TEXT NOT NULL, num INTEGER NOT NULL, id TEXT NOT NULL, expires REAL, size INTEGER NOT NULL,
    raw BLOB NOT NULL, PRIMARY KEY (name, num), UNIQUE (name, id)
);
CREATE TABLE IF NOT EXISTS written (        -- messages that this node wrote and has not read back yet
    name TEXT NOT NULL, num INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (name, num)
);
CREATE TABLE IF NOT EXISTS bodies (sha256 TEXT PRIMARY KEY, used REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS fleet (name TEXT NOT NULL);
PRAGMA user_version = {_FORMAT};
"""
_PRAGMAS: Final = (
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    f"journal_size_limit={4 << 20}",
    "synchronous=NORMAL",
    "secure_delete=ON",
    "cache_size=-512",
)


class MemoryFile:
    """The open file. Any thread may call any method; hold `lock` across calls that belong together.

    Args:
        path: the file.
        now: the clock, in unix seconds.
        opened: called with the connection each time the file has been opened, before any other use.

    Attributes:
        lock: a reentrant lock, held by every method.
        trouble: what was wrong with the file and what was done about it; "" if nothing was.

    Raises:
        JournalError: from every method, if the file cannot be opened, read or written; the next call tries
            again.
    """

    def __init__(
        self, path: Path, now: Callable[[], float], opened: Callable[[sqlite3.Connection], None]
    ) -> None:
        self.lock = threading.RLock()
        self.trouble = ""
        self._path = path
        self._now = now
        self._opened = opened
        self._closed = False
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file, unless it is open."""
        with self.lock, self._translated():
            _ = self._connection

    def close(self) -> None:
        """Close the file; every later call raises JournalError."""
        with self.lock:
            self._closed = True
            self.shut()

    def shut(self) -> None:
        """Close the file until the next call, which opens it again."""
        with self.lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 (what SQLite binds)
        """The rows that a SELECT finds."""
        with self.lock, self._translated():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write everything in the block or, if it raises, nothing."""
        with self.lock, self._translated():
            db = self._connection
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    def flush(self) -> None:
        """Empty the write-ahead log, which still has what was deleted, unless another process is reading."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise JournalError(f"{self._path} is not open")
        if self._db is None:
            self._open()
        return cast("sqlite3.Connection", self._db)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate SQLite's errors; set a damaged file aside, so that the next call finds a new one."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            reason = reason_of(error)
            if is_damage(error):
                with suppress(sqlite3.Error, OSError):
                    self._replace(reason)
            raise JournalError(
                f"{self._path}: this node's copy of the fleet's log is out of reach: {reason}"
            ) from error

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        forget_aside(self._path, self._now() - _ASIDE)
        try:
            wrong = self._connect()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self.shut()
            if not is_damage(error):
                raise
            wrong = reason_of(error)
        if wrong:
            self._replace(wrong)

    def _replace(self, wrong: str) -> None:
        self.shut()
        aside = set_aside(self._path)
        self.trouble = f"{wrong}; set aside as {aside}, and read from Consul again"
        self._connect()

    def _connect(self) -> str:
        """Open the file, or create it. Returns what is wrong with its content, "" if nothing is."""
        if self._path.exists() and not self._path.is_file():  # SQLite would block on a FIFO for ever
            return "it is not a file"
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        db = self._db = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        (found,) = db.execute("PRAGMA user_version").fetchone()
        (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            return " ".join(str(said).split())
        if found not in (0, _FORMAT) or (not found and db.execute("SELECT 1 FROM sqlite_master").fetchone()):
            return f"it has format {found}, and this agentd knows {_FORMAT}"
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        self._opened(db)
        return ""

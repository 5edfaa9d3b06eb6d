"""The journal's file: one SQLite database, only for agentd's user, written one transaction at a time.

Owns the connection, the schema and the translation of SQLite's errors. It must not know what the rows mean.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from agentd.errors import JournalError

_VERSION: Final = 1
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    handler TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    query TEXT NOT NULL,
    name TEXT,                              -- of an event
    digest TEXT NOT NULL,                   -- of the body
    idx TEXT NOT NULL,                      -- Consul's index: up to 64 bits without a sign
    body TEXT,                              -- JSON as Consul answered it; NULL once wiped
    received REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    generation INTEGER,                     -- with no outcome: committed, and waiting for the proof
    outcome TEXT,
    reason TEXT NOT NULL DEFAULT '',
    paths TEXT NOT NULL DEFAULT '[]',
    started REAL,
    finished REAL,
    UNIQUE (handler, id)
);
CREATE INDEX IF NOT EXISTS changes_open ON changes (handler, seq) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS changes_query ON changes (handler, query, seq);
CREATE TABLE IF NOT EXISTS plans (generation INTEGER NOT NULL, parent INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commits (        -- every time that `current` moved
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    handler TEXT NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL                     -- owed: waits for a proof; rides: for an earlier one; done
);
CREATE TABLE IF NOT EXISTS store (
    handler TEXT PRIMARY KEY, body TEXT NOT NULL DEFAULT '{{}}', ground INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS configured (handler TEXT PRIMARY KEY, fingerprint TEXT NOT NULL);
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# FULL: what is written down survives a power cut. secure_delete: a wiped payload is overwritten.
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", "cache_size=-1024")


class Database:
    """The open file. Any thread may call any method; `transaction` must not be nested.

    Raises:
        JournalError: from every method, when the file cannot be opened, read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: the journal cannot be opened: {error}") from error

    def _prepare(self) -> None:
        self._db.row_factory = sqlite3.Row
        for pragma in _PRAGMAS:
            self._db.execute(f"PRAGMA {pragma}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise JournalError(f"{self.path}: the journal was written by a newer agentd; run that one")
        if version < _VERSION:
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file; every later call raises JournalError."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self, *, synced: bool = False) -> Iterator[sqlite3.Connection]:
        """All that is executed within is written at the end, or, if anything raises, never happened.

        A kill takes nothing of it back. A power cut may take the last transactions, but only those after the
        last one that was `synced`: what was received but not acted upon, or an outcome that the tree tells.
        """
        with self._lock:
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise JournalError(f"{self.path}: the journal cannot be written: {error}") from error
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        with suppress(sqlite3.Error):  # closed, or rolled back by SQLite itself
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:  # noqa: ANN401 (what SQLite binds)
        """The rows that a SELECT finds."""
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: the journal cannot be read: {error}") from error

    def flush(self) -> None:
        """Empty the write-ahead log, in which older versions of wiped rows may still stand."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

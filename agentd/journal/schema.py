"""The format of the journal's file: its tables, and how files of earlier formats are upgraded.

Owns the format number. Opening the file, and everything in it, is up to `database` and `rows`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final

from agentd.errors import FormatError, JournalError

FORMAT: Final = 4
"""The format number, stored in `user_version`."""
# The steps from an earlier format to the next; the schema then adds new tables. Format 2 did not record which
# event was seen last: its newest row is the best guess.
UPGRADES: Final = {
    2: (
        "ALTER TABLE changes ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE changes ADD COLUMN undated INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE changes ADD COLUMN again INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE commits ADD COLUMN verify TEXT NOT NULL DEFAULT ' '",
        "CREATE TABLE watched (query TEXT PRIMARY KEY, body TEXT NOT NULL)",
        (
            "INSERT INTO watched"
            " SELECT query, json_object('last', id, 'ltime', (SELECT max(json_extract(body, '$.LTime'))"
            " FROM changes WHERE query = 'event' AND body IS NOT NULL)) FROM changes"
            " WHERE query = 'event' AND body IS NOT NULL AND id NOT LIKE '%#%' ORDER BY seq DESC LIMIT 1"
        ),
    ),
    3: (),
}
SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    handler TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    query TEXT NOT NULL,
    name TEXT,                              -- of an event
    digest TEXT NOT NULL,                   -- of the body
    idx TEXT NOT NULL,                      -- Consul's index: up to 64 bits without a sign
    epoch INTEGER NOT NULL DEFAULT 0,       -- of Consul's history, as this node counts them
    undated INTEGER NOT NULL DEFAULT 0,     -- an event of unknown age
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
    again INTEGER NOT NULL DEFAULT 0,       -- a state that failed, tried again until it succeeds
    UNIQUE (handler, id)
);
CREATE INDEX IF NOT EXISTS changes_open ON changes (handler, seq) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS changes_query ON changes (handler, query, seq);
CREATE INDEX IF NOT EXISTS changes_committed ON changes (seq)
    WHERE outcome IS NULL AND generation IS NOT NULL;
CREATE INDEX IF NOT EXISTS changes_failed ON changes (handler, seq) WHERE outcome IN ('refused', 'failed');
CREATE TABLE IF NOT EXISTS plans (generation INTEGER NOT NULL, parent INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commits (        -- every time that `current` moved
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    handler TEXT NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,                    -- owed: waits for a proof; rides: for an earlier one;
                                            -- live: proved, and to be verified; done
    verify TEXT NOT NULL DEFAULT ' '        -- who is still to verify it, such as ' sets tickets '
);
CREATE INDEX IF NOT EXISTS commits_generation ON commits (generation);
CREATE INDEX IF NOT EXISTS commits_owed ON commits (seq) WHERE state = 'owed';
CREATE INDEX IF NOT EXISTS commits_open ON commits (generation) WHERE state <> 'done';
CREATE INDEX IF NOT EXISTS commits_live ON commits (generation) WHERE state = 'live';
CREATE INDEX IF NOT EXISTS commits_backwards ON commits (seq) WHERE generation < parent;
CREATE TABLE IF NOT EXISTS store (
    handler TEXT PRIMARY KEY, body TEXT NOT NULL DEFAULT '{{}}', revision INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS drift (          -- what does not hold outside the tree
    handler TEXT NOT NULL, part TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (handler, part)
);
CREATE TABLE IF NOT EXISTS numbers (        -- of the log's messages, in force with a generation
    handler TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, num INTEGER NOT NULL,
    seq INTEGER NOT NULL,                   -- of the entry, or of one before the next
    PRIMARY KEY (handler, name, generation)
);
CREATE TABLE IF NOT EXISTS configured (handler TEXT PRIMARY KEY, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS watched (query TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS followed (       -- how far a handler has come in the fleet's log of a name
    handler TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (handler, name)
);
PRAGMA user_version = {FORMAT};
"""
# With WAL and NORMAL, a kill loses nothing; a power cut loses the last transactions, but does not damage the
# file. What must survive a power cut is `synced`. secure_delete overwrites wiped payloads.
PRAGMAS: Final = (
    "journal_mode=WAL",
    f"journal_size_limit={4 << 20}",  # of the write-ahead log, once its content is in the file
    "synchronous=NORMAL",
    "secure_delete=ON",
    "cache_size=-1024",
)
# Finds the payloads of one query without reading its whole history. Earlier versions do without it.
INDEX: Final = (
    "CREATE INDEX IF NOT EXISTS changes_whole ON changes (handler, query, seq) WHERE body IS NOT NULL"
)


def read_format(path: Path) -> int:
    """The format of the file, 0 if it is empty. Opens it read-only, so that a refused file is left untouched.

    Raises:
        FormatError: it has a format that this version neither writes nor can upgrade.
        JournalError: it cannot be read, or is not a database.
    """
    refuse_another_kind(path)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            is_new = not found and not db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise JournalError(f"{path}: the journal cannot be opened: {error}") from error
    if not is_new and found != FORMAT and found not in UPGRADES:
        raise FormatError(path, found, FORMAT)
    return int(found)


@cache
def tables() -> dict[str, frozenset[str]]:
    """The tables of the current format, each with its columns."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: frozenset(row[1] for row in db.execute(f"PRAGMA table_info({name})"))
            for name in names
            if not name.startswith("sqlite_")
        }


def refuse_another_kind(path: Path) -> None:
    """Raise JournalError if the path is neither free nor a regular file."""
    if path.exists() and not path.is_file():  # SQLite would block on a FIFO for ever
        raise JournalError(
            f"{path}: something else is where the journal should be: start agentd, which moves it away"
        )

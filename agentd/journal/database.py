"""The journal's file: one SQLite database, only for agentd's user, written one transaction at a time.

Owns the connection, the schema, how a change is written to a row and read back, and the translation of
SQLite's errors. It decides nothing: what happens to an entry is up to `journal` and `commits`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from agentd.errors import FormatError, JournalError
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
from agentd.journal.entry import Ending, Entry, Outcome
from agentd.watch.changes import KINDS, Change, Event, Notification, Timer

_UNREADABLE: Final = "a row of the journal cannot be read: restart agentd, which repairs what it can"
FORMAT: Final = 4
"""Of the file, in its `user_version`."""
# What brings a file of an earlier format to the next one; the schema then adds the tables that are new.
# Of the events that format 2 had seen, its newest row is the best that is known.
_UPGRADES: Final = {
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
_SCHEMA: Final = f"""
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
# In a write-ahead log with NORMAL a kill loses nothing, and a power cut loses the last transactions but never
# damages the file; what must survive that as well is `synced`. secure_delete: a wiped payload is overwritten.
_PRAGMAS: Final = (
    "journal_mode=WAL",
    f"journal_size_limit={4 << 20}",  # of the write-ahead log, once its content is in the file
    "synchronous=NORMAL",
    "secure_delete=ON",
    "cache_size=-1024",
)
# By it the payloads of one query are found without its whole history. Earlier versions do without it.
_INDEX: Final = (
    "CREATE INDEX IF NOT EXISTS changes_whole ON changes (handler, query, seq) WHERE body IS NOT NULL"
)
_LONGEST_REASON: Final = 8192  # characters, in each row that waits for it
_QUICK: Final = 0.2  # seconds: such a look may be had at any time
_FREE: Final = 8  # as much of a file may be free that cannot give it back piece by piece
_SHARE: Final = 50  # for each second beyond that which a look at the whole file takes, until the next


class Database:
    """The open file. Any thread may call any method; `transaction` must not be nested.

    Args:
        path: of the file.
        opened: False to leave that to a call of `open`.

    Attributes:
        trouble: why the last transaction could not be written, "" if it was.
        owes_flush: whether the write-ahead log must be emptied, because what was wiped may still be in it.

    Raises:
        JournalError: from every method, when the file cannot be opened, read or written.
        FormatError: when it is opened, if another version of agentd, or another program, wrote it.
    """

    def __init__(self, path: Path, *, opened: bool = True) -> None:
        self.path = path
        self.trouble = ""
        self.owes_flush = False
        self._lock = threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._files: dict[str, os.stat_result] = {}  # the file and its companions, as they were found
        self._checked: tuple[int, int] = (0, 0)
        self._check_at = 0.0
        self._broken = ""
        if opened:
            self.open()

    def open(self, *, mend: bool = False) -> str:
        """Open the file, if it is not open yet.

        Args:
            mend: set a damaged one aside and begin a new one with what can be read of it.

        Returns:
            What was wrong and done about it, "" for nothing.
        """
        with self._lock:
            if self._open is not None:
                return ""
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._finish_rescue()
                damage = damage_of(self.path, {0, FORMAT, *_UPGRADES}, _tables()) if mend else ""
                aside = set_aside(self.path) if damage else None
                _refuse_another_kind(self.path)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
                self._connect()
                if aside is None:
                    return ""
                saved = salvage(aside, self._db)
            except (OSError, sqlite3.Error) as error:
                self._shut()
                raise JournalError(f"{self.path}: the journal cannot be opened: {error}") from error
            return f"{damage}; set aside as {aside}, of which {saved} rows could be read"

    def _connect(self) -> None:
        found = read_format(self.path)
        self._open = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        self._open.row_factory = sqlite3.Row
        if found == 0:  # while the file is still empty: free pages can then be given back later
            self._open.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in _PRAGMAS:
            self._open.execute(f"PRAGMA {pragma}")
        if found != FORMAT:
            self._upgrade(found)
        with suppress(sqlite3.OperationalError):  # read-only: then it is only slower
            self._open.execute(_INDEX)
        self._open.execute("SELECT 1 FROM sqlite_master").fetchone()  # from here on the companions are there
        self.trouble = self._broken = ""
        self._files, self._checked = {}, (0, 0)
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self._files[suffix] = self._beside(suffix).stat()

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
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
        """Whether the file, or one that SQLite keeps beside it, was deleted or replaced. Cheap."""
        with self._lock:
            if self._open is None:
                return False
            return not all(same_file(self._beside(suffix), known) for suffix, known in self._files.items())

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}{suffix}")

    def damage(self) -> str:
        """What is wrong with the content of the file, "" if nothing is known.

        It is read through when somebody wrote to it, which SQLite does only now and then; not under the lock,
        and the less often the larger it is.
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
        broken = damage_of(self.path, {FORMAT}, _tables())
        with self._lock:
            took = time.monotonic() - began
            self._check_at = began + _SHARE * max(0.0, took - _QUICK)
            if self._open is db:  # it is still the same file
                self._broken = broken
            return self._broken

    def rescue(self) -> None:
        """The file is lost, but still open: write all that is in it into a new one, and go on with that."""
        with self._lock:
            fresh = self._rescued
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh.unlink(missing_ok=True)
                drop_companions(fresh)
                os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                with closing(sqlite3.connect(fresh)) as copy:
                    self._db.backup(copy)
                if damage := damage_of(fresh, {FORMAT}, _tables()):
                    self._broken = damage
                    raise JournalError(f"{self.path}: the journal cannot be written again: {damage}")
                self._shut()  # before the new file is there: SQLite deletes the companions by their names
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
        """A crash, or a full disk, came between writing the new file and giving it its name."""
        fresh = self._rescued
        if fresh.exists() and not os.path.lexists(self.path) and read_format(fresh) == FORMAT:
            drop_companions(self.path)
            fresh.rename(self.path)
        fresh.unlink(missing_ok=True)  # it was not complete
        drop_companions(fresh)

    def forget_aside(self, before: float) -> None:
        """Remove damaged files that were set aside before this unix time."""
        try:
            forget_aside(self.path, before)
        except OSError as error:
            raise JournalError(f"{self.path}: an old damaged journal cannot be removed: {error}") from error

    def probe(self) -> None:
        """Write something, to learn whether that is possible again; `trouble` says what is known."""
        with self.transaction() as db:
            db.execute(f"PRAGMA user_version = {FORMAT}")

    def _upgrade(self, found: int) -> None:
        """Bring the file to this format: in one transaction, so that a crash leaves the earlier one."""
        steps = [f"{step};" for number in range(found, FORMAT) if found for step in _UPGRADES[number]]
        self._db.executescript(f"BEGIN IMMEDIATE; {''.join(steps)} {_SCHEMA} COMMIT;")

    def close(self) -> None:
        """Close the file; every later call raises JournalError."""
        with self._lock:
            self._shut()

    @contextmanager
    def transaction(self, *, synced: bool = False) -> Iterator[sqlite3.Connection]:
        """Everything executed within is written at the end or, if anything raises, never happened.

        Once written, it survives a kill. A power cut may undo the last transactions, but none up to the last
        one that was `synced`: what is lost was received but not acted upon, or is an outcome that the tree
        still shows.
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

    def flush(self, patience: float = 10.0) -> bool:
        """Empty the write-ahead log, which may still contain older versions of wiped rows.

        Args:
            patience: seconds to wait for another process that is reading.

        Returns:
            Whether it is empty.
        """
        with self._lock:
            self.rows(f"PRAGMA busy_timeout={round(patience * 1000)}")
            try:
                return not self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
            finally:
                self.rows("PRAGMA busy_timeout=10000")

    # ------------------------------------------------------------------ its size

    def size(self) -> int:
        """Bytes on the disk, with the write-ahead log."""
        return self._pages("page_count") + self.logged()

    def used(self) -> int:
        """Bytes of the file that hold something."""
        return self._pages("page_count") - self._pages("freelist_count")

    def logged(self) -> int:
        """Bytes of the write-ahead log, which cannot be emptied while another process reads."""
        try:
            return self._beside("-wal").stat().st_size
        except OSError:
            return 0

    def shrink(self) -> None:
        """Give back what is free in the file; its log is emptied as well, unless somebody reads."""
        with self._lock:
            if self.rows("PRAGMA auto_vacuum")[0][0]:
                self._script("PRAGMA incremental_vacuum")
            elif (
                self._pages("freelist_count") > self.used() / _FREE
            ):  # an earlier version made it: once, all of it
                self._script("PRAGMA auto_vacuum=INCREMENTAL; VACUUM")
            self.flush(patience=0.1)

    def _script(self, sql: str) -> None:
        try:
            self._db.executescript(sql)
        except sqlite3.Error as error:
            self._note(error)
            raise JournalError(f"{self.path}: the journal cannot be made smaller: {error}") from error

    def _pages(self, which: str) -> int:
        with self._lock:
            return int(self.rows(f"PRAGMA {which}")[0][0]) * int(self.rows("PRAGMA page_size")[0][0])


def read_format(path: Path) -> int:
    """The format of the file, 0 if it is empty. Read-only, so that nothing is written to one that is refused.

    Raises:
        FormatError: it is neither empty, nor of this format or one that can be brought to it.
        JournalError: it cannot be read, or is no database.
    """
    _refuse_another_kind(path)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            is_new = not found and not db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise JournalError(f"{path}: the journal cannot be opened: {error}") from error
    if not is_new and found != FORMAT and found not in _UPGRADES:
        raise FormatError(path, found, FORMAT)
    return int(found)


@cache
def _tables() -> dict[str, frozenset[str]]:
    """The tables of this format, each with its columns."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: frozenset(row[1] for row in db.execute(f"PRAGMA table_info({name})"))
            for name in names
            if not name.startswith("sqlite_")
        }


def _refuse_another_kind(path: Path) -> None:
    if path.exists() and not path.is_file():  # SQLite would wait for a FIFO, for ever
        raise JournalError(
            f"{path}: something else is where the journal should be: start agentd, which moves it away"
        )


WAITS: Final = "outcome IS NULL AND generation IS NULL"
"""SQL: the entry waits for its handler."""
SAME_ID: Final = "id >= ? AND id < ? AND (id = ? OR id > ?)"
"""SQL: the entry has this ID, plain or with #2, #3, ...; an index finds it, however long the history is."""
COMMITTED: Final = "outcome IS NULL AND generation IS NOT NULL"
"""SQL: the entry is part of a generation, and waits for its proof."""


STATE: Final = "kind NOT IN ('event', 'notification', 'timer')"
"""SQL: the entry is a state."""


def kept(reason: str) -> str:
    """A reason as the journal keeps it: both ends of a long one, as a handler may quote a whole payload."""
    if len(reason) <= _LONGEST_REASON:
        return reason
    half = _LONGEST_REASON // 2
    return f"{reason[:half]} ... ({len(reason)} characters) ... {reason[-half:]}"


def is_state(change: Change) -> bool:
    """Whether a newer change of the same query replaces this one."""
    return not isinstance(change, Event | Notification | Timer)


def change_of(row: sqlite3.Row) -> Change:
    """The change as it was received; its payload must not have been wiped."""
    try:
        what = row["query"], json.loads(row["body"]), int(row["idx"]), row["epoch"]
        if row["kind"] == Event.kind:
            return Event(*what, undated=bool(row["undated"]))
        return KINDS[row["kind"]](*what)
    except (LookupError, TypeError, ValueError) as error:
        raise JournalError(_UNREADABLE) from error


def parsed(text: str) -> Any:  # noqa: ANN401 (any JSON)
    """The JSON of a column. Raises JournalError if it is none."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise JournalError(_UNREADABLE) from error


def entry_of(row: sqlite3.Row) -> Entry:
    """The row as an entry."""
    return Entry(
        seq=row["seq"],
        handler=row["handler"],
        id=row["id"],
        change=change_of(row),
        attempts=row["attempts"],
        received=row["received"],
        not_before=row["not_before"],
        generation=row["generation"],
        again=bool(row["again"]),
    )


def insert(db: sqlite3.Connection, handler: str, identity: str, change: Change, now: float) -> bool:
    """Add the change for the handler; False if it already had one with this id."""
    done = db.execute(
        "INSERT INTO changes (handler, id, kind, query, name, digest, idx, epoch, undated, body, received)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (handler, id) DO NOTHING",
        (
            handler,
            identity,
            change.kind,
            change.query,
            change.name if isinstance(change, Event) else None,
            change.digest,
            str(change.index),
            change.epoch,
            isinstance(change, Event) and change.undated,
            json.dumps(change.raw),
            now,
        ),
    )
    if is_state(change):
        _wipe_superseded(db, handler, change.query)
    return done.rowcount == 1


def _wipe_superseded(db: sqlite3.Connection, handler: str, query: str) -> None:
    """Wipe the states of this query that have ended, except the newest: nobody needs them any more."""
    db.execute(
        "UPDATE changes SET body = NULL WHERE handler = ?1 AND query = ?2 AND body IS NOT NULL"  # noqa: S608 (a constant)
        f" AND outcome IS NOT NULL AND {STATE}"
        " AND seq < (SELECT max(seq) FROM changes WHERE handler = ?1 AND query = ?2)",
        (handler, query),
    )


def same_id(identity: str) -> tuple[str, str, str, str]:
    """The values of `SAME_ID`."""
    return identity, f"{identity}$", identity, f"{identity}#"  # in ASCII "$" comes next after "#"


def free_id(db: sqlite3.Connection, handler: str, identity: str) -> str:
    """`identity`, with #2, #3, ... appended if the handler already had a change with that id."""
    plain = identity.partition("#")[0]
    taken = {
        row["id"]
        for row in db.execute(
            f"SELECT id FROM changes WHERE handler = ? AND {SAME_ID}",  # noqa: S608 (a constant)
            (handler, *same_id(plain)),
        )
    }
    candidates = (plain, *(f"{plain}#{number}" for number in range(2, len(taken) + 3)))
    return next(one for one in candidates if one not in taken)


def close(db: sqlite3.Connection, ending: Ending, now: float) -> bool:
    """Record how an entry ended; False if it had already ended."""
    done = db.execute(
        "UPDATE changes SET outcome = ?, reason = ?, generation = ?, paths = ?, started = ?, finished = ?"
        " WHERE seq = ? AND outcome IS NULL",
        (
            ending.outcome,
            kept(ending.reason),
            ending.generation,
            json.dumps(ending.paths),
            now - ending.duration,
            now,
            ending.entry.seq,
        ),
    )
    if is_state(ending.entry.change):
        _wipe_superseded(db, ending.entry.handler, ending.entry.change.query)
    return done.rowcount == 1


def ending_of(row: sqlite3.Row, outcome: Outcome, reason: str, now: float) -> Ending:
    """The end, now, of the entry in this row."""
    return Ending(
        entry_of(row),
        outcome,
        reason,
        generation=row["generation"],
        paths=tuple(parsed(row["paths"])),
        duration=max(0.0, now - (row["started"] or now)),
        waited=max(0.0, now - row["received"]),
    )

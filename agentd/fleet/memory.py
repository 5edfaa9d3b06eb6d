"""What a node holds of the fleet's log: `fleet.db` in the state directory, one SQLite database.

Owns that a number once reached is never forgotten, and that what Consul loses can be written back as it was:
the messages verbatim, their bodies, the marks of each head. It is not the journal, whose size limit drops
history. A damaged file is set aside; what was in it comes from Consul again, as far as Consul has it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from agentd.clock import unix_time
from agentd.errors import FleetError, JournalError
from agentd.fleet.envelope import LARGEST_ENVELOPE, Envelope, parse_envelope
from agentd.fleet.head import Head, Keep, parse_head
from agentd.fleet.held import Held
from agentd.journal.damage import forget_aside, is_damage, reason_of, set_aside

FILE: Final = "fleet.db"
"""Its name in the state directory."""
MOST_MESSAGES: Final = 64 * 1024 * 1024
"""Bytes of all messages that are held; then the oldest go."""
MOST_BODIES: Final = 16 * 1024 * 1024
"""Bytes of all bodies that are held; then those that were used longest ago go."""
MOST_OF_NAME: Final = 4200
"""Messages of one name that are held: a few more than the log keeps."""

_ASIDE: Final = 7 * 86400.0  # seconds for which a damaged file is kept, at least until the next start
_FRESH: Final = 5.0  # seconds for which a head that was read may be older than what this node wrote
_FORMAT: Final = 1
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, highest INTEGER NOT NULL, head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    name TEXT NOT NULL, num INTEGER NOT NULL, id TEXT NOT NULL, expires REAL, size INTEGER NOT NULL,
    raw BLOB NOT NULL, PRIMARY KEY (name, num), UNIQUE (name, id)
);
CREATE TABLE IF NOT EXISTS written (
    name TEXT NOT NULL, num INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (name, num)
);
CREATE TABLE IF NOT EXISTS bodies (sha256 TEXT PRIMARY KEY, used REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS fleet (name TEXT NOT NULL);
PRAGMA user_version = {_FORMAT};
"""
# What this node wrote stands in `written` until it is read as well.
_READ: Final = (
    "SELECT num FROM messages WHERE name = ?1 AND num > ?2"
    " AND num NOT IN (SELECT num FROM written WHERE name = ?1)"
)
_PRAGMAS: Final = (
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    f"journal_size_limit={4 << 20}",
    "synchronous=NORMAL",
    "secure_delete=ON",
    "cache_size=-512",
)


class Memory:
    """The open file. Any thread may call any method.

    Args:
        path: of the file.
        now: the clock, in unix seconds.

    Attributes:
        trouble: what was wrong with the file, and done about it; "" if nothing was.

    Raises:
        JournalError: from every method, when the file cannot be opened, read or written; the next call tries
            again. What Consul has is followed without it.
    """

    def __init__(self, path: Path, now: Callable[[], float] = unix_time) -> None:
        self.path = path
        self.trouble = ""
        self._closed = False
        self._now = now
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._highest: dict[str, int] = {}
        self._fleet = ""
        with self._lock, suppress(JournalError), self._translated():
            self._open()

    # ------------------------------------------------------------------ remember

    def remember(
        self,
        name: str,
        head: Head,
        messages: Iterable[Envelope] = (),
        bodies: Mapping[str, bytes] | None = None,
    ) -> None:
        """Hold what was read of a name, in one transaction; what its head says is pruned or forgotten goes.

        Args:
            name: of the log.
            head: as it was read, and believed: its newest message is held, or among these.
            messages: of that name, in any order.
            bodies: by SHA-256, those of the messages that have one elsewhere.
        """
        rows = _rows(name, messages)
        with self._transaction() as db:
            marks = Held(self._head(name) or head).merged(head)
            highest = max([self.highest(name), *(row[1] for row in rows)])
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", (name, highest, _rendered(marks)))
            _insert(db, rows)
            db.executemany("DELETE FROM written WHERE name = ? AND num = ?", [row[:2] for row in rows])
            db.executemany(
                "INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)",
                [(sha256, self._now(), body) for sha256, body in (bodies or {}).items()],
            )
            lowest = max(marks.floor, marks.base)
            db.execute("DELETE FROM messages WHERE name = ? AND num <= ?", (name, lowest))
            _limit(db, name)
            self._highest[name] = highest

    def wrote(self, name: str, keep: Keep, messages: Iterable[Envelope]) -> None:
        """Hold what this node has written, in one transaction, so that it can be written back.

        It counts as `unread` nevertheless, and moves neither the head nor the highest number: there may be
        others below it.

        Args:
            name: of the log.
            keep: what is kept of it.
            messages: of that name, in any order; their bodies are not held.
        """
        rows = _rows(name, messages)
        with self._transaction() as db:
            highest = self.highest(name)
            if self._head(name) is None:
                row = (name, highest, _rendered(Head(keep)))
                db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", row)
            db.executemany(
                "INSERT OR IGNORE INTO written SELECT ?1, ?2, ?3"
                " WHERE NOT EXISTS (SELECT 1 FROM messages WHERE name = ?1 AND num = ?2)",
                [(*row[:2], self._now()) for row in rows],
            )
            _insert(db, rows)
            _limit(db, name)
            self._highest[name] = highest

    def note(self, name: str, head: Head) -> None:
        """Take over what a head says is pruned or forgotten, if this node knows the messages that it goes by.

        Without it what was forgotten while nothing new came would be written back. Nothing is written if
        nothing is new.
        """
        with self._lock:
            known = self._head(name)
            if known is None or head.newest > self.highest(name):
                return
            if head.floor > known.floor or head.base > known.base or head.cut > known.cut:
                self.remember(name, head)

    def belong_to(self, fleet: str) -> None:
        """Hold the log of this fleet; what is held of another one is forgotten, or it would be written there.

        Args:
            fleet: its name, and where it is at home.
        """
        self._fleet = fleet
        try:
            with self._transaction() as db:
                self._adopt(db)
        except JournalError:
            with self._lock:
                self._shut()  # so that the next call does it
            raise

    def _adopt(self, db: sqlite3.Connection) -> None:
        known = db.execute("SELECT name FROM fleet").fetchone()
        if not self._fleet or known == (self._fleet,):
            return
        for table in ("names", "messages", "written", "bodies", "fleet") if known else ():
            db.execute(f"DELETE FROM {table}")  # noqa: S608 (constants)
        db.execute("INSERT INTO fleet VALUES (?)", (self._fleet,))
        if known:
            self._highest.clear()

    def drop(self, name: str) -> None:
        """Hold no message of a name that is not kept any longer; its number is remembered."""
        with self._transaction() as db:
            for table in ("messages", "written"):
                db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608 (constants)

    # ------------------------------------------------------------------ recall

    def highest(self, name: str) -> int:
        """The highest number that this node has held a message of; 0 for none. It never falls."""
        with self._lock:
            return self._highest.get(name, 0)

    def names(self) -> tuple[str, ...]:
        """The names of which something is known."""
        with self._lock:
            return tuple(sorted(self._highest))

    def held(self, name: str) -> Held | None:
        """All that is held of a name, None for nothing; what cannot be read of it is left out."""
        with self._lock:
            head = self._head(name)
            rows = self._rows("SELECT raw FROM messages WHERE name = ? ORDER BY num", name)
        return None if head is None else Held(head, list(_readable(row[0] for row in rows)))

    def holds(self, name: str) -> bool:
        """Whether any message of a name is held that was read."""
        return bool(self._rows(f"{_READ} LIMIT 1", name, 0))

    def unread(self, name: str, head: Head, numbers: Callable[[], Iterable[int]]) -> list[int]:
        """The numbers of messages that the log has and this node never read, ascending.

        Nothing is known of that if so much is held that the oldest had to go.

        Args:
            name: of the log.
            head: of it, up to which all is held that was read.
            numbers: lists those of all messages; it is asked only if the head has more than are held.
        """
        lowest = max(head.floor, head.base)
        rows = self._rows(_READ, name, lowest)
        if head.count <= len(rows) or len(rows) >= MOST_OF_NAME:
            return []
        ((size,),) = self._rows("SELECT sum(size) FROM messages")
        if (size or 0) > MOST_MESSAGES - LARGEST_ENVELOPE:
            return []
        known = {row[0] for row in rows}
        return sorted(num for num in numbers() if lowest < num <= head.newest and num not in known)

    def seems_lost(self, name: str, head: Head | None) -> bool:
        """Whether Consul seems to have lost some of a name: quicker than `held(name).is_lost`, and alike.

        Args:
            name: of the log.
            head: what Consul has now; None for nothing.
        """
        with self._lock:
            known = self._head(name)
            if known is None:
                return False
            marks = Held(known).merged(head)
            ((count, newest),) = self._rows(
                "SELECT count(*), max(num) FROM messages WHERE name = ?1 AND num > ?2 AND (expires IS NULL"
                " OR expires > ?3 OR num = (SELECT max(num) FROM messages WHERE name = ?1))"
                " AND num NOT IN (SELECT num FROM written WHERE name = ?1 AND abs(at - ?3) < ?4)",
                name, max(marks.floor, marks.base), self._now(), _FRESH,
            )  # fmt: skip
        if head is None:
            return count > 0 or known.floor > 0
        return head.newest < (newest or 0) or head.count < count or head.floor < known.floor

    def body(self, sha256: str) -> bytes | None:
        """The body of that digest, if it is held."""
        rows = self._rows("SELECT body FROM bodies WHERE sha256 = ?", sha256)
        return bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the file; every later call raises JournalError."""
        with self._lock:
            self._closed = True
            self._shut()

    def _shut(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    # ------------------------------------------------------------------ the file

    def _head(self, name: str) -> Head | None:
        rows = self._rows("SELECT head FROM names WHERE name = ?", name)
        with suppress(FleetError):
            return parse_head(rows[0][0]) if rows else None
        return None

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 (what SQLite binds)
        with self._lock, self._translated():
            return self._connection.execute(sql, values).fetchall()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise JournalError(f"{self.path} is not open")
        if self._db is None:
            self._open()
        return cast("sqlite3.Connection", self._db)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever SQLite says; a damaged file is set aside, so that the next call finds a new one."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            reason = reason_of(error)
            if is_damage(error):
                with suppress(sqlite3.Error, OSError):
                    self._replace(reason)
            raise JournalError(
                f"{self.path}: what is held of the fleet's log is out of reach: {reason}"
            ) from error

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        forget_aside(self.path, self._now() - _ASIDE)
        try:
            wrong = self._connect()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._shut()
            if not is_damage(error):
                raise
            wrong = reason_of(error)
        if wrong:
            self._replace(wrong)

    def _replace(self, wrong: str) -> None:
        """Begin a new file; of the old one the numbers are taken over as far as they are known."""
        self._shut()
        aside = set_aside(self.path)
        self.trouble = f"{wrong}; set aside as {aside}, and read from Consul again"
        self._connect()
        with self._connection as db:
            db.executemany(
                "INSERT INTO names VALUES (?, ?, ?)",
                [(name, num, b"") for name, num in self._highest.items()],
            )

    def _connect(self) -> str:
        """Open the file, or a new one; what is wrong with it, "" for nothing."""
        if self.path.exists() and not self.path.is_file():  # SQLite would wait for a FIFO, for ever
            return "it is not a file"
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        db = self._db = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        (found,) = db.execute("PRAGMA user_version").fetchone()
        (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            return " ".join(str(said).split())
        if found not in (0, _FORMAT) or (not found and db.execute("SELECT 1 FROM sqlite_master").fetchone()):
            return f"it has format {found}, and this agentd knows {_FORMAT}"
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        known = dict(db.execute("SELECT name, highest FROM names"))
        self._highest = {str(name): int(num) for name, num in known.items()} | self._highest
        self._adopt(db)
        return ""


def _rows(name: str, messages: Iterable[Envelope]) -> list[tuple[Any, ...]]:
    return [(name, one.num, one.id, one.expires, len(one.raw), one.raw) for one in messages]


def _insert(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    # What was read first counts. But the log may have lost a message, and have it again since then
    # under another number: only one of the two can be written back.
    db.executemany(
        "DELETE FROM messages WHERE name = ? AND id = ? AND num <> ?",
        [(name, identity, num) for name, num, identity, *_ in rows],
    )
    db.executemany("INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)


def _limit(db: sqlite3.Connection, name: str) -> None:
    db.execute(
        "DELETE FROM messages WHERE name = ?1 AND num <= (SELECT num FROM messages WHERE name = ?1"
        " ORDER BY num DESC LIMIT 1 OFFSET ?2)",
        (name, MOST_OF_NAME),
    )
    db.execute(
        "DELETE FROM messages WHERE rowid IN (SELECT id FROM (SELECT rowid AS id,"
        " sum(size) OVER (ORDER BY num DESC, rowid) AS total FROM messages) WHERE total > ?)",
        (MOST_MESSAGES,),
    )
    db.execute(
        "DELETE FROM written WHERE NOT EXISTS (SELECT 1 FROM messages"
        " WHERE messages.name = written.name AND messages.num = written.num)"
    )
    db.execute(
        "DELETE FROM bodies WHERE rowid IN (SELECT id FROM (SELECT rowid AS id,"
        " sum(length(body)) OVER (ORDER BY used DESC, rowid) AS total FROM bodies) WHERE total > ?)",
        (MOST_BODIES,),
    )


def _rendered(head: Head) -> bytes:
    """The marks of a head, without its newest message, which is held anyway."""
    return replace(head, inline=None).render()


def _readable(raws: Iterable[bytes]) -> Iterator[Envelope]:
    for raw in raws:
        with suppress(FleetError):
            yield parse_envelope(raw)

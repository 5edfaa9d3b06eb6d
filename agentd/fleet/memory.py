"""A node's own copy of the fleet's log, kept in `fleet.db` in case Consul loses it.

Stores the messages verbatim, their bodies, and the marks of each head (`floor`, `base`, `cut`). Owns that the
highest number seen is never forgotten. It is separate from the journal, whose size limit drops history.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agentd.clock import unix_time
from agentd.errors import FleetError, JournalError
from agentd.fleet.envelope import LARGEST_ENVELOPE, Envelope, parse_envelope
from agentd.fleet.head import Head, Keep, parse_head
from agentd.fleet.held import Held
from agentd.fleet.memory_file import MemoryFile
from agentd.trust.pattern import FREEZE

FILE: Final = "fleet.db"
"""Its name in the state directory."""
MOST_MESSAGES: Final = 64 * 1024 * 1024
"""Most bytes of messages, of all names together; the oldest go first."""
MOST_BODIES: Final = 16 * 1024 * 1024
"""Most bytes of bodies; the least recently used go first."""
MOST_OF_NAME: Final = 4200
"""Most messages of one name: a few more than the log keeps."""

_FRESH: Final = 5.0  # seconds by which a head that was read may be older than what this node wrote
_READ: Final = (
    "SELECT num FROM messages WHERE name = ?1 AND num > ?2"
    " AND num NOT IN (SELECT num FROM written WHERE name = ?1)"
)


class Memory:
    """The copy. Any thread may call any method.

    Args:
        path: the file.
        now: the clock, in unix seconds.

    Raises:
        JournalError: from every method, if the file cannot be opened, read or written; the next call tries
            again. The log can be followed without the copy.
    """

    def __init__(self, path: Path, now: Callable[[], float] = unix_time) -> None:
        self._now = now
        self._highest: dict[str, int] = {}
        self._fleet = ""
        self._file = MemoryFile(path, now, self._opened)
        self._lock = self._file.lock
        with suppress(JournalError):
            self._file.open()

    @property
    def trouble(self) -> str:
        """What was wrong with the file and what was done about it; "" if nothing was."""
        return self._file.trouble

    def _opened(self, db: sqlite3.Connection) -> None:
        known = {str(name): int(num) for name, num in db.execute("SELECT name, highest FROM names")}
        lost = [(name, num, b"") for name, num in self._highest.items() if name not in known]
        if lost:  # the file replaces a damaged one
            db.executemany("INSERT INTO names VALUES (?, ?, ?)", lost)
        self._highest = known | self._highest
        self._adopt(db)

    # ------------------------------------------------------------------ remember

    def remember(
        self,
        name: str,
        head: Head,
        messages: Iterable[Envelope] = (),
        bodies: Mapping[str, bytes] | None = None,
    ) -> bool:
        """Store what was read, in one transaction, and drop what the head says was pruned or forgotten.

        Returns whether a writer did not see a message that is stored here, so that the log must have lost it.

        Args:
            name: the kept name.
            head: the head as read and verified; its newest message is already stored, or in `messages`.
            messages: messages of that name, in any order.
            bodies: by SHA-256, the bodies that are stored apart from their messages.
        """
        read = list(messages)
        rows = _rows(name, read)
        with self._file.transaction() as db:
            marks = Held(self._head(name) or head).merged(head)
            highest = max([self.highest(name), *(row[1] for row in rows)])
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", (name, highest, _rendered(marks)))
            went_on = any(_is_between(db, name, one.prev, one.num) for one in read)
            _insert(db, rows)
            db.executemany("DELETE FROM written WHERE name = ? AND num = ?", [row[:2] for row in rows])
            db.executemany(
                "INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)",
                [(sha256, self._now(), body) for sha256, body in (bodies or {}).items()],
            )
            lowest = max(marks.floor, marks.base)
            gone = db.execute("DELETE FROM messages WHERE name = ? AND num <= ?", (name, lowest)).rowcount
            _limit(db, name)
            self._highest[name] = highest
        if gone and marks.keep == "latest":  # it may be a secret, if a sealed one
            self._file.flush()
        return went_on

    def wrote(self, name: str, keep: Keep, messages: Iterable[Envelope]) -> None:
        """Store what this node has written itself, in one transaction, so that it can be written back.

        Such a message still counts as unread, and moves neither the head nor the highest number, since others
        may have written messages below it.

        Args:
            name: the kept name.
            keep: which messages of it are kept.
            messages: messages of that name, in any order; their bodies are not stored.
        """
        rows = _rows(name, messages)
        with self._file.transaction() as db:
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
        """Take over the marks of a head, unless it has messages unknown here.

        Otherwise messages that were forgotten while nothing new came would be written back. Writes only if
        the marks have changed.
        """
        with self._lock:
            known = self._head(name)
            if known is None or head.newest > self.highest(name):
                return
            if Held(head).knows_more(known):
                self.remember(name, head)

    def belong_to(self, fleet: str) -> None:
        """Dedicate the copy to this fleet; another fleet's is erased, or it would be written to this one.

        Args:
            fleet: its name and home datacenter.
        """
        self._fleet = fleet
        try:
            with self._file.transaction() as db:
                self._adopt(db)
        except JournalError:
            self._file.shut()  # so that the next call opens it, and adopts it then
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
        """Drop the messages of a name that is no longer kept; its highest number stays."""
        with self._file.transaction() as db:
            for table in ("messages", "written"):
                db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608 (constants)
        self._file.flush()

    # ------------------------------------------------------------------ recall

    def highest(self, name: str) -> int:
        """The highest message number that this node has ever read; 0 if none. It never falls."""
        with self._lock:
            return self._highest.get(name, 0)

    def pruned(self, name: str) -> int:
        """The number up to which messages are known to have been pruned or forgotten; it never falls."""
        with self._lock:
            known = self._head(name)
        return max(known.floor, known.base) if known else 0

    def names(self) -> tuple[str, ...]:
        """The names of which anything is stored."""
        with self._lock:
            return tuple(sorted(self._highest))

    def held(self, name: str) -> Held | None:
        """Everything stored of a name, None if nothing is; unreadable messages are left out."""
        with self._lock:
            head = self._head(name)
            rows = self._file.rows("SELECT raw FROM messages WHERE name = ? ORDER BY num", name)
        return None if head is None else Held(head, list(_readable(row[0] for row in rows)))

    def holds(self, name: str) -> bool:
        """Whether any message of the name that was read is stored."""
        return bool(self._file.rows(f"{_READ} LIMIT 1", name, 0))

    def unread(self, name: str, head: Head, numbers: Iterable[int]) -> list[int]:
        """Which of these numbers this node never read, ascending.

        Empty if the copy is full, as the oldest messages were dropped from it then. What was pruned or
        forgotten is not unread, even if the head does not say so any more: somebody may have put it back.

        Args:
            name: the kept name.
            head: its head; everything that was read up to it is stored. It may be forged: messages that were
                pruned before are no longer stored, and do not count as unread if it lists them again.
            numbers: the numbers of all messages.
        """
        with self._lock:
            marks = Held(self._head(name) or head).merged(head)
        lowest = max(marks.floor, marks.base)
        rows = self._file.rows(_READ, name, lowest)
        if len(rows) >= MOST_OF_NAME:
            return []
        ((size,),) = self._file.rows("SELECT sum(size) FROM messages")
        if (size or 0) > MOST_MESSAGES - LARGEST_ENVELOPE:
            return []
        known = {row[0] for row in rows}
        return sorted(num for num in numbers if lowest < num <= head.newest and num not in known)

    def seems_lost(self, name: str, head: Head | None) -> bool:
        """Whether Consul may have lost messages of a name, so that `Log.write_back` should compare them.

        `remember` notices messages that were lost before somebody published.

        Args:
            name: the kept name.
            head: what Consul has now; None if nothing.
        """
        with self._lock:
            known = self._head(name)
            if known is None:
                return False
            marks = Held(known).merged(head)
            ((newest,),) = self._file.rows(
                "SELECT max(num) FROM messages WHERE name = ?1 AND num > ?2 AND (expires IS NULL"
                " OR expires > ?3 OR num = (SELECT max(num) FROM messages WHERE name = ?1))"
                " AND num NOT IN (SELECT num FROM written WHERE name = ?1 AND abs(at - ?3) < ?4)",
                name, max(marks.floor, marks.base), self._now(), _FRESH,
            )  # fmt: skip
        if head is None:
            return bool(newest) or known.floor > 0
        return head.newest < (newest or 0) or Held(known).knows_more(head)

    def body(self, sha256: str) -> bytes | None:
        """The body with that digest; None if it is not stored."""
        rows = self._file.rows("SELECT body FROM bodies WHERE sha256 = ?", sha256)
        return bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the file; every later call raises JournalError."""
        self._file.close()

    def _head(self, name: str) -> Head | None:
        rows = self._file.rows("SELECT head FROM names WHERE name = ?", name)
        with suppress(FleetError):
            return parse_head(rows[0][0]) if rows else None
        return None


def _is_between(db: sqlite3.Connection, name: str, low: int, high: int) -> bool:
    sql = "SELECT 1 FROM messages WHERE name = ? AND num > ? AND num < ?"
    return db.execute(sql, (name, low, high)).fetchone() is not None


def _rows(name: str, messages: Iterable[Envelope]) -> list[tuple[Any, ...]]:
    return [(name, one.num, one.id, one.expires, len(one.raw), one.raw) for one in messages]


def _insert(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    # Of two messages at one number, the first one read counts. But the log may have lost a message and then
    # got it again under another number: only one of the two can be written back.
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
        "DELETE FROM messages WHERE rowid IN (SELECT id FROM (SELECT rowid AS id, sum(size) OVER"
        " (ORDER BY name = ?1 DESC, num DESC, rowid) AS total FROM messages) WHERE total > ?2)",
        (FREEZE, MOST_MESSAGES),  # a flood of messages ends no freeze
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
    """The head's marks, without its newest message, which is stored anyway."""
    return replace(head, inline=None).render()


def _readable(raws: Iterable[bytes]) -> Iterator[Envelope]:
    for raw in raws:
        with suppress(FleetError):
            yield parse_envelope(raw)

"""The node's memory: what was seen, what is still owed, what became of it.

A change is written here before it is handled and closed after its outcome, so that a kill at any instruction
loses nothing. The rows are also the mailboxes: workers read what waits for them from here, and a command line
adds to it from outside. What commits mean for the rows is the ledger's part (`ledger.py`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from agentd.apply.database import Database
from agentd.apply.outcome import Ending, Entry
from agentd.apply.rows import WAITS, change_of, close, entry_of, free_id, insert, is_state
from agentd.errors import JournalError
from agentd.watch.changes import Change

_FEWEST: Final = 10_000  # rows kept however old: an event may sit in Consul's ring for weeks
_SHORTEST: Final = 4  # characters by which an id may be abbreviated
_LONGEST_ID: Final = 120
_HISTORY: Final = (
    "seq, handler, id, kind, query, name, received, attempts, not_before, generation, outcome, reason, paths,"
    " started, finished"
)
# The newest row of each query, which tells whether a state is news.
_NEWEST: Final = "SELECT max(seq) FROM changes WHERE kind <> 'event' GROUP BY handler, query"


class Journal:
    """The journal. Every method is one transaction, and may be called from any thread.

    Args:
        path: the file; it and its directory are made if they are missing.
        clock: unix seconds.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        self.database = Database(path)
        self._listed: frozenset[str] | None = None  # not asked yet

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    # ------------------------------------------------------------------ what comes in

    def receive(
        self, owed: Sequence[tuple[Change, Sequence[str]]], *, listed: Iterable[str] | None = None
    ) -> list[tuple[Change, list[str]]]:
        """Write down each change for each of the handlers that did not have it yet.

        An event is known by its ID. A state is new if it differs from the newest one of its query.

        Args:
            owed: changes, each with its handlers.
            listed: the IDs of all events in Consul's ring, if that is what was asked; those are never pruned.

        Returns:
            What is new: each change with the handlers that did not have it.
        """
        news: list[tuple[Change, list[str]]] = []
        if any(handlers for _, handlers in owed):
            with self.database.transaction() as db:
                for change, handlers in owed:
                    if fresh := [name for name in handlers if self._owe(db, name, change)]:
                        news.append((change, fresh))
        if listed is not None:
            self._listed = frozenset(listed)
        return news

    def _owe(self, db: sqlite3.Connection, handler: str, change: Change) -> bool:
        if not is_state(change):
            return insert(db, handler, change.id, change, self.clock())
        newest = db.execute(
            "SELECT digest FROM changes WHERE handler = ? AND query = ? ORDER BY seq DESC LIMIT 1",
            (handler, change.query),
        ).fetchone()
        if newest and newest["digest"] == change.digest:
            return False
        identity = free_id(db, handler, f"{change.query}:{change.id}"[-_LONGEST_ID:])
        return insert(db, handler, identity, change, self.clock())

    def owe(self, handler: str, change: Change) -> Entry:
        """Owe one change to one handler, whether it had it before or not, and return the entry."""
        with self.database.transaction() as db:
            identity = free_id(db, handler, change.id)
            insert(db, handler, identity, change, self.clock())
            return _read(db, handler, identity)

    def replay(self, identity: str, handler: str | None = None) -> list[Entry]:
        """Owe a change once more to the handlers that had it.

        Args:
            identity: its id, or the beginning of it.
            handler: only to this one.

        Raises:
            JournalError: there is no such change, or its payload was wiped by now.
        """
        rows = [row for row in self.find(identity) if handler in (None, row["handler"])]
        if not rows:
            raise JournalError(f"no change {identity!r} in the journal; `agentd history` lists them")
        if any(row["body"] is None for row in rows):
            raise JournalError(f"the payload of {identity!r} was wiped (journal.replayable); fire it again")
        with self.database.transaction() as db:
            return [self._again(db, row) for row in rows]

    def _again(self, db: sqlite3.Connection, row: sqlite3.Row) -> Entry:
        identity = free_id(db, row["handler"], row["id"])
        insert(db, row["handler"], identity, change_of(row), self.clock())
        return _read(db, row["handler"], identity)

    def reconfigured(self, handler: str, fingerprint: str, queries: Collection[str]) -> bool:
        """Note how the handler is configured now; if it changed, owe it the newest state of each query again.

        A handler that was dropped and comes back has changed; one that is new has no states yet.

        Args:
            handler: its name.
            fingerprint: equal while nothing in its configuration changes.
            queries: those of its queries, as they print themselves, whose states it still takes.
        """
        with self.database.transaction() as db:
            known = db.execute("SELECT fingerprint FROM configured WHERE handler = ?", (handler,)).fetchone()
            db.execute("INSERT OR REPLACE INTO configured VALUES (?, ?)", (handler, fingerprint))
            if known and known["fingerprint"] == fingerprint:
                return False
            self._owe_states(db, "handler = ?", handler, queries)
            return True

    def owe_states(self) -> None:
        """Owe every handler the newest state of each of its queries again: its files may be lost."""
        with self.database.transaction() as db:
            self._owe_states(db, "? IS NULL", None, None)

    def _owe_states(
        self, db: sqlite3.Connection, which: str, value: str | None, queries: Collection[str] | None
    ) -> None:
        rows = db.execute(
            "SELECT * FROM changes WHERE seq IN (SELECT max(seq) FROM changes"  # noqa: S608 (constants of this module)
            f" WHERE kind NOT IN ('event', 'notification', 'timer') AND {which} GROUP BY handler, query)"
            f" AND NOT ({WAITS})",
            (value,),
        ).fetchall()
        for row in rows:
            if queries is None or row["query"] in queries:
                self._again(db, row)

    # ------------------------------------------------------------------ what is owed

    def pending(self, handler: str, limit: int = 1000) -> list[Entry]:
        """What waits for the handler, in the order of arrival."""
        rows = self.database.rows(
            f"SELECT * FROM changes WHERE handler = ? AND {WAITS} ORDER BY seq LIMIT ?",  # noqa: S608 (a constant)
            handler,
            limit,
        )
        return [entry_of(row) for row in rows]

    def defer(self, seqs: Iterable[int], reason: str, not_before: float, *, failed: bool) -> None:
        """Try again at `not_before` (unix seconds); `failed` counts it as an attempt."""
        with self.database.transaction() as db:
            db.executemany(
                "UPDATE changes SET reason = ?, not_before = ?, attempts = attempts + ?"
                " WHERE seq = ? AND outcome IS NULL",
                ((reason, not_before, int(failed), seq) for seq in seqs),
            )

    def end(self, endings: Iterable[Ending]) -> list[Ending]:
        """Close entries with their outcomes. Returns those that were still open."""
        with self.database.transaction() as db:
            return [ending for ending in endings if close(db, ending, self.clock())]

    def backlog(self) -> dict[str, int]:
        """How many entries have no outcome yet, by handler."""
        rows = self.database.rows(
            "SELECT handler, count(*) AS n FROM changes WHERE outcome IS NULL GROUP BY handler"
        )
        return {row["handler"]: row["n"] for row in rows}

    def owed(self) -> list[int]:
        """The generations that wait for a proof."""
        rows = self.database.rows("SELECT generation FROM commits WHERE state = 'owed' ORDER BY seq")
        return [row["generation"] for row in rows]

    def last_generation(self) -> int:
        """The highest generation ever planned, so that a deleted tree never counts from 1 again."""
        rows = self.database.rows(
            "SELECT max(generation) AS most FROM (SELECT generation FROM commits"
            " UNION ALL SELECT generation FROM plans)"
        )
        return int(rows[0]["most"] or 0)

    def store(self, handler: str) -> dict[str, Any]:
        """A copy of the handler's store."""
        return self.stores().get(handler, {})

    def stores(self) -> dict[str, dict[str, Any]]:
        """A copy of every handler's store."""
        rows = self.database.rows("SELECT handler, body FROM store")
        return {row["handler"]: json.loads(row["body"]) for row in rows}

    # ------------------------------------------------------------------ what became of it

    def find(self, identity: str) -> list[sqlite3.Row]:
        """The newest row a handler of the change with this id, or with an id that begins like this.

        Raises:
            JournalError: several changes have an id that begins like this.
        """
        rows = self.database.rows("SELECT * FROM changes WHERE id = ? ORDER BY seq", identity)
        if not rows and len(identity) >= _SHORTEST:
            rows = self.database.rows(
                "SELECT * FROM changes WHERE substr(id, 1, ?) = ? AND kind NOT IN ('notification', 'timer')"
                " ORDER BY seq",
                len(identity),
                identity,
            )
            if len({row["id"].partition("#")[0] for row in rows}) > 1:
                raise JournalError(f"{identity!r} is the beginning of several ids; give more of it")
        return list({row["handler"]: row for row in rows}.values())

    def history(
        self, *, limit: int = 50, handler: str | None = None, identity: str | None = None
    ) -> list[dict[str, Any]]:
        """What came and what became of it, newest first; payloads are not in it."""
        rows = self.database.rows(
            f"SELECT {_HISTORY} FROM changes WHERE (?1 IS NULL OR handler = ?1)"  # noqa: S608 (a constant)
            " AND (?2 IS NULL OR substr(id, 1, length(?2)) = ?2) ORDER BY seq DESC LIMIT ?3",
            handler,
            identity,
            limit,
        )
        return [dict(row) | {"paths": json.loads(row["paths"])} for row in rows]

    def tidy(self, *, keep: float, replayable: float) -> None:
        """Wipe payloads older than `replayable` seconds and rows older than `keep`, but never what is owed.

        The newest state of each query keeps its payload. Rows of events that Consul still lists stay; as long
        as it was not asked since the start, those of all events do.
        """
        now = self.clock()
        with self.database.transaction() as db:
            db.execute(
                "UPDATE changes SET body = NULL WHERE body IS NOT NULL AND finished < ?"  # noqa: S608 (a constant)
                f" AND seq NOT IN ({_NEWEST})",
                (now - replayable,),
            )
            db.execute(
                "DELETE FROM changes WHERE finished < ? AND (kind <> 'event' OR ?)"  # noqa: S608 (a constant)
                " AND substr(id, 1, 36) NOT IN (SELECT value FROM json_each(?))"
                f" AND seq <= (SELECT max(seq) FROM changes) - ? AND seq NOT IN ({_NEWEST})",
                (now - keep, self._listed is not None, json.dumps(sorted(self._listed or ())), _FEWEST),
            )
            db.execute(
                "DELETE FROM commits WHERE state = 'done' AND at < ? AND seq < (SELECT max(seq) FROM commits)"
                " AND generation < (SELECT max(generation) FROM commits)",
                (now - keep,),
            )
        self.database.flush()


def _read(db: sqlite3.Connection, handler: str, identity: str) -> Entry:
    row = db.execute("SELECT * FROM changes WHERE handler = ? AND id = ?", (handler, identity)).fetchone()
    return entry_of(row)

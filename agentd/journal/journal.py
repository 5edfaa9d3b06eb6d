"""The node's memory: what was received, what is still pending, and how it ended.

A change is recorded here before it is handled, and closed with its outcome, so that a kill at any instruction
loses nothing. The rows are also the workers' queues, to which commands add from other processes. What a
commit means for the rows is up to `commits`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agentd.clock import unix_time
from agentd.errors import JournalError
from agentd.journal.database import Database
from agentd.journal.entry import RELAY, Ending, Entry, Outcome
from agentd.journal.numbers import note
from agentd.journal.numbers import tidy as tidy_numbers
from agentd.journal.rows import (
    STATE,
    WAITS,
    change_of,
    close,
    ending_of,
    entry_of,
    free_id,
    insert,
    is_state,
    kept,
    parsed,
)
from agentd.journal.store import unmarked
from agentd.watch.changes import Change, Event

_FEWEST: Final = 10_000  # rows that are kept however old: an event may stay in Consul's ring for weeks
_SHORTEST: Final = 4  # characters to which an id may be abbreviated
_LONGEST_ID: Final = 120
_HISTORY: Final = (
    "seq, handler, id, kind, query, name, received, attempts, not_before, generation, outcome, reason, paths,"
    " started, finished"
)
# Whether the generation of an open entry is proved, and only not verified yet.
_LIVE: Final = (
    "EXISTS (SELECT 1 FROM commits WHERE commits.generation = changes.generation AND commits.state = 'live')"
    " AS live"
)
_IN_FORCE: Final = (Outcome.APPLIED, Outcome.UNCHANGED)
NEWEST: Final = "SELECT max(seq) FROM changes WHERE kind <> 'event' GROUP BY handler, query"
"""SQL: the newest row of each query, by which a state is recognized as new."""
SUPERSEDED: Final = "a newer state arrived"
"""Why a state ends that was not handled yet."""


class Journal:
    """The journal. Every method is one transaction, and may be called from any thread.

    Args:
        path: the file; it and its directory are created if they are missing.
        clock: unix seconds.
        opened: False to leave opening the file to a call of `database.open`.

    Attributes:
        most: the most bytes that it may take on the disk, None for any number; see `limit`.
        listed: the IDs of all events in Consul's ring, None if it was not asked yet.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = unix_time, opened: bool = True) -> None:
        self.path = path
        self.clock = clock
        self.database = Database(path, opened=opened)
        self.most: int | None = None
        self.listed: frozenset[str] | None = None
        self._taken: dict[str, float] = {}

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    # ------------------------------------------------------------------ receiving

    def receive(
        self,
        owed: Sequence[tuple[Change, Sequence[str]]],
        *,
        listed: Iterable[str] | None = None,
        seen: tuple[str, Mapping[str, Any]] | None = None,
        ended: Callable[[Ending], None] | None = None,
    ) -> list[tuple[Change, list[str]]]:
        """Record each change for each of its handlers that does not have it yet.

        An event is known by its ID. A state is new if it differs from the newest one of its query; if its
        index is lower, Consul has lost its data, and the state is of the next epoch.

        Args:
            owed: changes, each with its handlers.
            listed: the IDs of all events in Consul's ring, if those were listed; they are never pruned.
            seen: a query, and what its poller is to remember of it, recorded with the changes.
            ended: told of each older state that ends because it was still waiting.

        Returns:
            What is new: each change with the handlers that did not have it.

        Raises:
            JournalError: nothing was recorded; ask Consul again.
        """
        if refusal := self.refusal():
            raise JournalError(refusal)
        news: list[tuple[Change, list[str]]] = []
        replaced: list[Ending] = []
        if seen or any(handlers for _, handlers in owed):
            with self.database.transaction() as db:
                if seen:
                    _remember(db, *seen)
                for change, handlers in owed:
                    if fresh := [name for name in handlers if self._queue(db, name, change)]:
                        news.append((change, fresh))
                        replaced += self._end_replaced(db, change, fresh)
        if listed is not None:
            self.listed = frozenset(listed)
        if ended:
            for ending in replaced:
                ended(ending)
        return news

    def refusal(self) -> str:
        """Why nothing is received: while another process reads, whatever is written only lengthens the log.

        Returns:
            "" if it is.
        """
        log = self.database
        if self.most is None or log.logged() <= self.most or log.flush(patience=0.1):
            return ""
        return (
            "nothing more is received, because the journal's write-ahead log exceeds journal.max_size and"
            f" cannot be emptied: end the process that keeps it open (`fuser {self.path}`)"
        )

    def _end_replaced(self, db: sqlite3.Connection, change: Change, handlers: Iterable[str]) -> list[Ending]:
        """End the older states of the query that wait and that no worker has seen.

        Otherwise those that arrive while a handler is busy would pile up, each with its payload.
        """
        if not is_state(change):
            return []
        rows = [
            row
            for name in handlers
            for row in db.execute(
                f"SELECT * FROM changes WHERE handler = ? AND query = ? AND seq > ? AND {WAITS}"  # noqa: S608 (a constant)
                " AND body IS NOT NULL ORDER BY seq DESC LIMIT -1 OFFSET 1",
                (name, change.query, self.taken(name)),
            ).fetchall()
        ]
        now = self.clock()
        endings = [ending_of(row, Outcome.EXPIRED, SUPERSEDED, now) for row in reversed(rows)]
        return [ending for ending in endings if close(db, ending, now)]

    def _queue(self, db: sqlite3.Connection, handler: str, change: Change) -> bool:
        if not is_state(change):
            return insert(db, handler, change.id, change, self.clock())
        newest = db.execute(
            "SELECT digest, idx, epoch FROM changes WHERE handler = ? AND query = ?"
            " ORDER BY seq DESC LIMIT 1",
            (handler, change.query),
        ).fetchone()
        if newest and newest["digest"] == change.digest:
            return False
        if newest:
            change = replace(change, epoch=newest["epoch"] + (change.index < int(newest["idx"])))
        identity = free_id(db, handler, f"{change.query}:{change.id}"[-_LONGEST_ID:])
        return insert(db, handler, identity, change, self.clock())

    def queue(self, handler: str, change: Change) -> Entry:
        """Add one change for one handler, even if it had it before, and return the entry."""
        with self.database.transaction() as db:
            identity = free_id(db, handler, change.id)
            insert(db, handler, identity, change, self.clock())
            return _read(db, handler, identity)

    def replay(self, identity: str, handler: str | None = None) -> list[Entry]:
        """Add a change again for the handlers that had it.

        Args:
            identity: its ID, or the beginning of it.
            handler: only for this one.

        Raises:
            JournalError: there is no such change, or its payload has been wiped.
        """
        rows = self.replayable(identity, handler)
        with self.database.transaction() as db:
            return [self._again(db, row) for row in rows]

    def replayable(self, identity: str, handler: str | None = None) -> list[sqlite3.Row]:
        """For each handler the row that `replay` would add again. Arguments and errors are the same."""
        rows = [
            row
            for row in self.find(identity)
            if handler in (None, row["handler"]) and row["handler"] != RELAY
        ]
        if not rows:
            raise JournalError(f"there is no change {identity!r} in the journal; `agentd history` lists them")
        if wiped := [row for row in rows if row["body"] is None]:
            if wiped[0]["kind"] != Event.kind:
                raise JournalError(f"the payload of {identity!r} was wiped: a newer state has replaced it")
            raise JournalError(
                f"the payload of {identity!r} was wiped (by journal.replayable or journal.max_size, or with a"
                " key that was retired); fire it again"
            )
        return rows

    def try_again(self, seq: int, attempts: int, not_before: float) -> None:
        """Add a state that has ended once more, to be tried until it succeeds or a newer one arrives.

        Args:
            seq: of the entry that ended.
            attempts: failed attempts so far.
            not_before: unix time of the next attempt at the earliest.
        """
        with self.database.transaction() as db:
            row = db.execute("SELECT * FROM changes WHERE seq = ?", (seq,)).fetchone()
            if row is None or row["body"] is None:
                return  # a newer one has arrived
            added = self._again(db, row)
            db.execute(
                "UPDATE changes SET again = 1, attempts = ?, not_before = ?, reason = ? WHERE seq = ?",
                (attempts, not_before, row["reason"], added.seq),
            )

    def resume(self) -> None:
        """At a start, or when the clock was set back: what was put off is tried at once."""
        with self.database.transaction() as db:
            db.execute("UPDATE changes SET not_before = 0 WHERE outcome IS NULL AND not_before > 0")

    def _again(self, db: sqlite3.Connection, row: sqlite3.Row) -> Entry:
        change = change_of(row)
        if isinstance(change, Event):
            change = change.again(self.clock())  # whoever replays it wants it now
        identity = free_id(db, row["handler"], row["id"])
        insert(db, row["handler"], identity, change, self.clock())
        return _read(db, row["handler"], identity)

    def reconfigured(self, handler: str, fingerprint: str, queries: Collection[str]) -> bool:
        """Record how the handler is configured; if that changed, add the newest state of each query again.

        A handler that was removed and comes back counts as changed; a new one has no states yet.

        Args:
            handler: its name.
            fingerprint: the same as long as its configuration is the same.
            queries: its queries, as strings, whose states it still takes.
        """
        with self.database.transaction() as db:
            known = db.execute("SELECT fingerprint FROM configured WHERE handler = ?", (handler,)).fetchone()
            db.execute("INSERT OR REPLACE INTO configured VALUES (?, ?)", (handler, fingerprint))
            if known and known["fingerprint"] == fingerprint:
                return False
            self._owe_states(db, "handler = ?", handler, queries)
            return True

    def owe_states(self) -> None:
        """Add the newest state of each query again for every handler, because its files may be lost."""
        with self.database.transaction() as db:
            self._owe_states(db, "? IS NULL", None, None)

    def _owe_states(
        self, db: sqlite3.Connection, which: str, value: str | None, queries: Collection[str] | None
    ) -> None:
        rows = db.execute(
            "SELECT * FROM changes WHERE seq IN (SELECT max(seq) FROM changes"  # noqa: S608 (constants of this module)
            f" WHERE {STATE} AND {which} GROUP BY handler, query)"
            f" AND body IS NOT NULL AND NOT ({WAITS})",
            (value,),
        ).fetchall()
        for row in rows:
            if queries is None or row["query"] in queries:
                self._again(db, row)

    # ------------------------------------------------------------------ what was seen

    def seen(self, query: str) -> dict[str, Any] | None:
        """What the query's poller is to remember, as `receive` recorded it; None if it never did."""
        rows = self.database.rows("SELECT body FROM watched WHERE query = ?", query)
        return dict(parsed(rows[0]["body"])) if rows else None

    def remember(self, query: str, seen: Mapping[str, Any]) -> None:
        """Record what the query's poller is to remember."""
        with self.database.transaction() as db:
            _remember(db, query, seen)

    def owed_events(self, taken: Collection[int] = ()) -> list[str]:
        """The IDs of heard events that wait and are not among `taken` (seqs), the newest 256."""
        rows = self.database.rows(
            f"SELECT DISTINCT id FROM changes WHERE {WAITS} AND query = 'event'"  # noqa: S608 (a constant)
            " AND seq NOT IN (SELECT value FROM json_each(?)) ORDER BY seq DESC LIMIT 256",
            json.dumps(list(taken)),
        )
        return [row["id"] for row in rows]

    # ------------------------------------------------------------------ pending

    def pending(self, handler: str, limit: int = 1000) -> list[Entry]:
        """What waits for the handler, in order of arrival; from now on its worker decides how that ends."""
        self._taken[handler] = math.inf  # until it is known how far this goes
        rows = self.database.rows(
            f"SELECT * FROM changes WHERE handler = ? AND {WAITS} ORDER BY seq LIMIT ?",  # noqa: S608 (a constant)
            handler,
            limit,
        )
        self._taken[handler] = rows[-1]["seq"] if rows else 0
        return [entry_of(row) for row in rows]

    def newest_events(self, handler: str, after: int, limit: int = 1000) -> list[Entry]:
        """The newest events after an entry that wait for the handler, in order of arrival."""
        rows = self.database.rows(
            f"SELECT * FROM changes WHERE handler = ? AND seq > ? AND kind = 'event' AND {WAITS}"  # noqa: S608 (a constant)
            " ORDER BY seq DESC LIMIT ?",
            handler,
            after,
            limit,
        )
        return [entry_of(row) for row in reversed(rows)]

    def taken(self, handler: str) -> float:
        """The last entry that was handed out by `pending`: all after it are unknown to the worker."""
        return self._taken.get(handler, 0)

    def begin(self, seq: int) -> None:
        """Record that an entry is about to be handled; what cannot be recorded must not be begun."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE changes SET started = ? WHERE seq = ? AND outcome IS NULL", (self.clock(), seq)
            )

    def defer(self, seqs: Iterable[int], reason: str, not_before: float, *, failed: bool) -> None:
        """Retry at `not_before` (unix seconds); with `failed`, count an attempt."""
        with self.database.transaction() as db:
            db.executemany(
                "UPDATE changes SET reason = ?, not_before = ?, attempts = attempts + ?"
                " WHERE seq = ? AND outcome IS NULL",
                ((kept(reason), not_before, int(failed), seq) for seq in seqs),
            )

    def end(self, endings: Iterable[Ending]) -> list[Ending]:
        """Close entries with their outcomes; return those that were still open."""
        with self.database.transaction() as db:
            ended = [ending for ending in endings if close(db, ending, self.clock())]
            note(db, [one.entry.seq for one in ended if one.outcome in _IN_FORCE])
            return ended

    def backlog(self) -> dict[str, int]:
        """The number of entries without an outcome, by handler."""
        rows = self.database.rows(
            "SELECT handler, count(*) AS n FROM changes WHERE outcome IS NULL GROUP BY handler"
        )
        return {row["handler"]: row["n"] for row in rows}

    def unproved(self) -> list[int]:
        """The generations that wait for a proof."""
        rows = self.database.rows("SELECT generation FROM commits WHERE state = 'owed' ORDER BY seq")
        return [row["generation"] for row in rows]

    def last_generation(self) -> int:
        """The highest generation ever planned, so that no number is reused after the tree was deleted."""
        rows = self.database.rows(
            "SELECT max(coalesce((SELECT max(generation) FROM commits), 0),"
            " coalesce((SELECT max(generation) FROM plans), 0)) AS most"
        )
        return int(rows[0]["most"])

    def store(self, handler: str, known: int | None = None) -> dict[str, Any]:
        """A copy of the handler's store.

        Args:
            handler: its name.
            known: the format that the store must have; None for any.

        Raises:
            FormatError: it has another one.
        """
        rows = self.database.rows("SELECT body FROM store WHERE handler = ?", handler)
        return unmarked(handler, parsed(rows[0]["body"]), known) if rows else {}

    def stores(self) -> dict[str, dict[str, Any]]:
        """A copy of every handler's store, marked with its format."""
        rows = self.database.rows("SELECT handler, body FROM store")
        return {row["handler"]: parsed(row["body"]) for row in rows}

    # ------------------------------------------------------------------ history

    def find(self, identity: str) -> list[sqlite3.Row]:
        """For each handler the newest row of the change with this id, or whose id begins like this.

        Raises:
            JournalError: the ids of several changes begin like this.
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
                raise JournalError(f"several IDs begin with {identity!r}; give more characters")
        return list({row["handler"]: row for row in rows}.values())

    def history(
        self, *, limit: int = 50, handler: str | None = None, identity: str | None = None
    ) -> list[dict[str, Any]]:
        """What was received and how it ended, newest first, without payloads."""
        rows = self.database.rows(
            f"SELECT {_HISTORY}, {_LIVE} FROM changes WHERE (?1 IS NULL OR handler = ?1)"  # noqa: S608 (a constant)
            " AND (?2 IS NULL OR substr(id, 1, length(?2)) = ?2) ORDER BY seq DESC LIMIT ?3",
            handler,
            identity,
            limit,
        )
        return [dict(row) | {"paths": parsed(row["paths"]), "live": bool(row["live"])} for row in rows]

    def tidy(self, *, keep: float, replayable: float) -> None:
        """Wipe payloads after `replayable` seconds and delete rows after `keep` seconds, but nothing pending.

        The newest state of each query keeps its payload. Rows of events that Consul still lists are kept;
        until Consul has been asked since the start, those of all events are.
        """
        now = self.clock()
        with self.database.transaction() as db:
            db.execute(
                "UPDATE changes SET body = NULL WHERE body IS NOT NULL AND finished < ?"  # noqa: S608 (a constant)
                f" AND seq NOT IN ({NEWEST})",
                (now - replayable,),
            )
            db.execute(
                "UPDATE changes SET body = NULL WHERE body IS NOT NULL AND outcome IS NOT NULL"  # noqa: S608 (constants)
                f" AND {STATE} AND seq NOT IN ({NEWEST})"
            )
            db.execute(
                "DELETE FROM changes WHERE finished < ? AND (kind <> 'event' OR ?)"  # noqa: S608 (a constant)
                " AND substr(id, 1, 36) NOT IN (SELECT value FROM json_each(?))"
                f" AND seq <= (SELECT max(seq) FROM changes) - ? AND seq NOT IN ({NEWEST})",
                (now - keep, self.listed is not None, json.dumps(sorted(self.listed or ())), _FEWEST),
            )
            db.execute(
                "DELETE FROM commits WHERE state = 'done' AND at < ? AND seq < (SELECT max(seq) FROM commits)"
                " AND generation < (SELECT max(generation) FROM commits)",
                (now - keep,),
            )
            tidy_numbers(db)
        self.database.owes_flush = not self.database.flush(patience=0.1)  # everybody waits for that
        self.database.forget_aside(now - replayable)


def _remember(db: sqlite3.Connection, query: str, seen: Mapping[str, Any]) -> None:
    db.execute("INSERT OR REPLACE INTO watched VALUES (?, ?)", (query, json.dumps(dict(seen))))


def _read(db: sqlite3.Connection, handler: str, identity: str) -> Entry:
    row = db.execute("SELECT * FROM changes WHERE handler = ? AND id = ?", (handler, identity)).fetchone()
    return entry_of(row)

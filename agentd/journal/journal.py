"""The node's memory: what was received, and what is still pending.

A change is recorded before it is handled and closed with its outcome, so a kill at any instruction loses
nothing. The rows are also the workers' queues, to which commands in other processes add. `commits` owns what
a commit means for the rows, `history` what has ended.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentd.clock import unix_time
from agentd.errors import JournalError
from agentd.journal.database import Database
from agentd.journal.entry import Ending, Entry, Outcome
from agentd.journal.numbers import note
from agentd.journal.rows import (
    STATE,
    WAITS,
    add_again,
    close,
    ending_of,
    entry_of,
    free_id,
    insert,
    insert_refused,
    is_state,
    kept,
    parsed,
    read_entry,
)
from agentd.journal.store import unmarked
from agentd.watch.changes import Change, Event

_LONGEST_ID: Final = 120
_NONE: Final[Mapping[str, str]] = {}
_IN_FORCE: Final = (Outcome.APPLIED, Outcome.UNCHANGED)
NEWEST: Final = "SELECT max(seq) FROM changes WHERE kind <> 'event' GROUP BY handler, query"
"""SQL: the newest row of each query, with which a state is compared to tell whether it is new."""
SUPERSEDED: Final = "a newer state arrived"
"""The reason for which a state expires before it was handled."""


class Journal:
    """The journal. Every method is one transaction, and may be called from any thread.

    Args:
        path: the file; it and its directory are created if they are missing.
        clock: unix seconds.
        opened: whether to open the file right away; otherwise call `database.open`.

    Attributes:
        most: the most bytes that it may take on disk; None for no limit. See `limit`.
        listed: the IDs of all events in Consul's ring; None if Consul has not been asked yet.

    Raises:
        JournalError: from every method, if the file cannot be read or written.
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
        refused: Mapping[str, str] = _NONE,
        joint: Collection[str] = (),
    ) -> list[tuple[Change, list[str]]]:
        """Record each change for each of its handlers that does not have it yet.

        An event is recognised by its ID. A state is new if it differs from the newest one of its query; if
        its index is lower, Consul has lost its data, and the state starts a new epoch.

        Args:
            owed: the changes, each with its handlers.
            listed: the IDs of all events in Consul's ring, if they were listed; their rows are never deleted.
            seen: a query and what its poller has to remember, recorded together with the changes.
            ended: called with each older state that ends because it was still waiting, and each event that is
                refused.
            refused: by ID, why an event must not be given to its handlers. It ends at once, and its payload
                is not recorded.
            joint: the handlers that need the newest state of each query, and so get it again if its payload
                was wiped.

        Returns:
            The new changes that are not refused, each with the handlers that did not have it.

        Raises:
            JournalError: nothing was recorded; ask Consul again.
        """
        if refusal := self.refusal():
            raise JournalError(refusal)
        news: list[tuple[Change, list[str]]] = []
        endings: list[Ending] = []
        if seen or any(handlers for _, handlers in owed):
            with self.database.transaction() as db:
                if seen:
                    _remember(db, *seen)
                for change, handlers in owed:
                    if reason := refused.get(change.id) if isinstance(change, Event) else None:
                        now = self.clock()
                        rows = (insert_refused(db, one, change.id, change, reason, now) for one in handlers)
                        endings += [ending for ending in rows if ending]
                    elif fresh := [name for name in handlers if self._queue(db, name, change, name in joint)]:
                        news.append((change, fresh))
                        endings += self._end_replaced(db, change, fresh)
        if listed is not None:
            self.listed = frozenset(listed)
        if ended:
            for ending in endings:
                ended(ending)
        return news

    def refusal(self) -> str:
        """Why nothing can be received: while another process reads, the write-ahead log only grows.

        Returns:
            "" if changes can be received.
        """
        log = self.database
        if self.most is None or log.logged() <= self.most or log.flush(patience=0.1):
            return ""
        return (
            "nothing more is received, because the journal's write-ahead log exceeds journal.max_size and"
            f" cannot be emptied: end the process that keeps it open (`fuser {self.path}`)"
        )

    def _end_replaced(self, db: sqlite3.Connection, change: Change, handlers: Iterable[str]) -> list[Ending]:
        """End the older states of the query that are waiting and that no worker has seen.

        Otherwise states would pile up while a handler is busy, each with its payload.
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

    def _queue(self, db: sqlite3.Connection, handler: str, change: Change, joint: bool) -> bool:  # noqa: FBT001 (a fact)
        if not is_state(change):
            return insert(db, handler, change.id, change, self.clock())
        newest = db.execute(
            "SELECT digest, idx, epoch, body IS NULL AS wiped FROM changes WHERE handler = ? AND query = ?"
            " ORDER BY seq DESC LIMIT 1",
            (handler, change.query),
        ).fetchone()
        if newest and newest["digest"] == change.digest and not (joint and newest["wiped"]):
            return False
        if newest:
            change = change.at_epoch(newest["epoch"] + (change.index < int(newest["idx"])))
        identity = free_id(db, handler, f"{change.query}:{change.id}"[-_LONGEST_ID:])
        return insert(db, handler, identity, change, self.clock())

    def queue(self, handler: str, change: Change) -> Entry:
        """Add a change for a handler, even if the handler already had it, and return the entry."""
        with self.database.transaction() as db:
            identity = free_id(db, handler, change.id)
            insert(db, handler, identity, change, self.clock())
            return read_entry(db, handler, identity)

    def try_again(self, seq: int, attempts: int, not_before: float) -> None:
        """Add an ended state again, to be tried until it succeeds or a newer one arrives.

        Args:
            seq: the entry that ended.
            attempts: failed attempts so far.
            not_before: the earliest unix time of the next attempt.
        """
        with self.database.transaction() as db:
            row = db.execute("SELECT * FROM changes WHERE seq = ?", (seq,)).fetchone()
            if row is None or row["body"] is None:
                return  # a newer one has arrived
            added = add_again(db, row, self.clock())
            db.execute(
                "UPDATE changes SET again = 1, attempts = ?, not_before = ?, reason = ? WHERE seq = ?",
                (attempts, not_before, row["reason"], added.seq),
            )

    def resume(self) -> None:
        """Try everything that was deferred at once; called at a start, and after the clock was set back."""
        with self.database.transaction() as db:
            db.execute("UPDATE changes SET not_before = 0 WHERE outcome IS NULL AND not_before > 0")

    def reconfigured(self, handler: str, fingerprint: str, queries: Collection[str]) -> bool:
        """Record a handler's configuration; if it has changed, add the newest state of each query again.

        A handler that was removed and comes back counts as changed; a new one has no states yet.

        Args:
            handler: its name.
            fingerprint: a digest of its configuration.
            queries: the queries, as strings, whose states it still takes.
        """
        with self.database.transaction() as db:
            known = db.execute("SELECT fingerprint FROM configured WHERE handler = ?", (handler,)).fetchone()
            db.execute("INSERT OR REPLACE INTO configured VALUES (?, ?)", (handler, fingerprint))
            if known and known["fingerprint"] == fingerprint:
                return False
            self._owe_states(db, "handler = ?", handler, queries)
            return True

    def owe_states(self, handler: str | None = None) -> None:
        """Add the newest state of each query again for a handler, or all, since its files may be lost."""
        with self.database.transaction() as db:
            self._owe_states(db, "? IN (handler, '')", handler or "", None)

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
                add_again(db, row, self.clock())

    # ------------------------------------------------------------------ what pollers remember

    def seen(self, query: str) -> dict[str, Any] | None:
        """What the query's poller has to remember, as recorded by `receive`; None if nothing was."""
        rows = self.database.rows("SELECT body FROM watched WHERE query = ?", query)
        return dict(parsed(rows[0]["body"])) if rows else None

    def remember(self, query: str, seen: Mapping[str, Any]) -> None:
        """Record what the query's poller has to remember."""
        with self.database.transaction() as db:
            _remember(db, query, seen)

    def owed_events(self, taken: Collection[int] = ()) -> list[str]:
        """The IDs of the newest 256 waiting events, except the entries in `taken` (seqs)."""
        rows = self.database.rows(
            f"SELECT DISTINCT id FROM changes WHERE {WAITS} AND query = 'event'"  # noqa: S608 (a constant)
            " AND seq NOT IN (SELECT value FROM json_each(?)) ORDER BY seq DESC LIMIT 256",
            json.dumps(list(taken)),
        )
        return [row["id"] for row in rows]

    # ------------------------------------------------------------------ pending

    def hold(self, handler: str, reason: str) -> None:
        """Note on all that waits for the handler from outside why it is held back; "" if it no longer is."""
        held = (
            f"handler = ?1 AND {WAITS} AND kind NOT IN ('notification', 'timer') AND reason <> ?2"
            " AND (?2 <> '' OR reason LIKE 'paused since %')"
        )
        if self.database.rows(f"SELECT 1 FROM changes WHERE {held} LIMIT 1", handler, reason):  # noqa: S608 (a constant)
            with self.database.transaction() as db:
                db.execute(f"UPDATE changes SET reason = ?2 WHERE {held}", (handler, reason))  # noqa: S608 (a constant)

    def inside(self, handler: str) -> list[Entry]:
        """The notifications and the timed work that wait for the handler, in order of arrival."""
        rows = self.database.rows(
            f"SELECT * FROM changes WHERE handler = ? AND {WAITS} AND kind IN ('notification', 'timer')"  # noqa: S608 (a constant)
            " ORDER BY seq LIMIT 1000",
            handler,
        )
        return [entry_of(row) for row in rows]

    def pending(self, handler: str, limit: int = 1000) -> list[Entry]:
        """The entries that wait for the handler, in order of arrival; from now on its worker owns them.

        With a `limit` of -1 all of them.
        """
        self._taken[handler] = math.inf  # until the query has returned
        rows = self.database.rows(
            f"SELECT * FROM changes WHERE handler = ? AND {WAITS} ORDER BY seq LIMIT ?",  # noqa: S608 (a constant)
            handler,
            limit,
        )
        self._taken[handler] = rows[-1]["seq"] if rows else 0
        return [entry_of(row) for row in rows]

    def newest_state(self, handler: str, query: str) -> tuple[int, str | None, int, int] | None:
        """The newest state of a query that the handler was given, or that waits for it.

        Returns:
            The entry's seq, its JSON (None if it was wiped), its index and its epoch; None if there is none.
        """
        rows = self.database.rows(
            "SELECT seq, body, idx, epoch FROM changes WHERE handler = ? AND query = ?"
            " ORDER BY seq DESC LIMIT 1",
            handler,
            query,
        )
        return next(((row["seq"], row["body"], int(row["idx"]), row["epoch"]) for row in rows), None)

    def has_state(self, handler: str, query: str) -> bool:
        """Whether the handler ever got a state of this query."""
        return bool(
            self.database.rows(
                "SELECT 1 FROM changes WHERE handler = ? AND query = ? LIMIT 1", handler, query
            )
        )

    def newest_events(self, handler: str, after: int, limit: int = 1000) -> list[Entry]:
        """The newest events that wait for the handler, after the entry with this seq, in order of arrival."""
        rows = self.database.rows(
            f"SELECT * FROM changes WHERE handler = ? AND seq > ? AND kind = 'event' AND {WAITS}"  # noqa: S608 (a constant)
            " ORDER BY seq DESC LIMIT ?",
            handler,
            after,
            limit,
        )
        return [entry_of(row) for row in reversed(rows)]

    def taken(self, handler: str) -> float:
        """The seq of the last entry that `pending` returned: the worker has not seen later ones."""
        return self._taken.get(handler, 0)

    def begin(self, seq: int) -> None:
        """Record that an entry is about to be handled. If this fails, it must not be handled."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE changes SET started = ? WHERE seq = ? AND outcome IS NULL", (self.clock(), seq)
            )

    def defer(self, seqs: Iterable[int], reason: str, not_before: float, *, failed: bool) -> None:
        """Retry the entries at `not_before` (unix seconds); with `failed`, count an attempt."""
        with self.database.transaction() as db:
            db.executemany(
                "UPDATE changes SET reason = ?, not_before = ?, attempts = attempts + ?"
                " WHERE seq = ? AND outcome IS NULL",
                ((kept(reason), not_before, int(failed), seq) for seq in seqs),
            )

    def end(self, endings: Iterable[Ending]) -> list[Ending]:
        """Close entries with their outcomes. Returns those that were still open."""
        with self.database.transaction() as db:
            ended = [ending for ending in endings if close(db, ending, self.clock())]
            note(db, [one.entry.seq for one in ended if one.outcome in _IN_FORCE])
            return ended

    def backlog(self) -> dict[str, int]:
        """The number of open entries, by handler."""
        rows = self.database.rows(
            "SELECT handler, count(*) AS n FROM changes WHERE outcome IS NULL GROUP BY handler"
        )
        return {row["handler"]: row["n"] for row in rows}

    def handlers(self) -> list[str]:
        """The names of the handlers that had a change, also of those that are no longer configured."""
        rows = self.database.rows("SELECT DISTINCT handler FROM changes ORDER BY handler")
        return [row["handler"] for row in rows]

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
            known: the format that the store has to have; None for any.

        Raises:
            FormatError: it has a different format.
        """
        rows = self.database.rows("SELECT body FROM store WHERE handler = ?", handler)
        return unmarked(handler, parsed(rows[0]["body"]), known) if rows else {}

    def stores(self) -> dict[str, dict[str, Any]]:
        """A copy of every handler's store, marked with its format."""
        rows = self.database.rows("SELECT handler, body FROM store")
        return {row["handler"]: parsed(row["body"]) for row in rows}


def _remember(db: sqlite3.Connection, query: str, seen: Mapping[str, Any]) -> None:
    db.execute("INSERT OR REPLACE INTO watched VALUES (?, ?)", (query, json.dumps(dict(seen))))

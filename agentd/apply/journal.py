"""The node's memory: what was seen, what was applied, what is still owed. SQLite, one file, only for agentd.

A change is written here before it is handled and closed after its outcome, so that a kill at any instruction loses
nothing. A commit spans two stores, this file and the tree; the tree's flip decides: `prepare` writes the plan,
the tree flips, `complete` carries the plan out, and `recover` completes or drops a plan that a crash left behind.
Rows are also the queue: workers read what is pending from here, and a command line adds to it from outside.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.apply.outcome import Ending, Entry, Outcome
from agentd.errors import JournalError
from agentd.watch.changes import KINDS, Change, Event, Notification, Timer

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    handler TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    query TEXT NOT NULL,
    name TEXT,
    digest TEXT NOT NULL,
    idx TEXT NOT NULL,
    body TEXT,
    received REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    generation INTEGER,
    outcome TEXT,
    reason TEXT NOT NULL DEFAULT '',
    paths TEXT NOT NULL DEFAULT '[]',
    started REAL,
    finished REAL,
    UNIQUE (handler, id)
);
CREATE INDEX IF NOT EXISTS changes_open ON changes (handler, seq) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS changes_query ON changes (handler, query, seq);
CREATE TABLE IF NOT EXISTS commits (
    generation INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    handler TEXT NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    plan TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS store (handler TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS configured (handler TEXT PRIMARY KEY, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ring (id TEXT PRIMARY KEY);
"""
_FEWEST: Final = 10_000  # rows kept however old: an event may sit in Consul's ring for weeks


@dataclass(frozen=True, slots=True)
class Plan:
    """What a commit means for the journal, carried out once its generation is current.

    Attributes:
        seqs: entries that changed something; they wait for the proof if `proved_by` is not empty.
        unchanged: entries of the same batch that changed nothing.
        store: the handler's whole new store, or None to leave it.
        notify: handlers told.
        proved_by: those of them whose proof the entries wait for.
    """

    handler: str
    seqs: tuple[int, ...] = ()
    unchanged: tuple[int, ...] = ()
    store: Mapping[str, Any] | None = None
    notify: tuple[str, ...] = ()
    proved_by: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    started: float = 0.0
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rollback: bool = False
    reason: str = ""


class Journal:
    """The journal file. Every method is one transaction, and may be called from any thread.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cache_size=-1024"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: the journal cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the file; it may be opened again."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise JournalError(f"{self.path}: the journal cannot be written: {error}") from error

    def _all(self, sql: str, *values: Any) -> list[sqlite3.Row]:  # noqa: ANN401 (what SQLite binds)
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: the journal cannot be read: {error}") from error

    # -- what comes in

    def receive(
        self, owed: Iterable[tuple[Change, Sequence[str]]], *, listed: Iterable[str] | None = None
    ) -> set[str]:
        """Write down each change for each of the handlers that did not have it yet.

        An event is known by its ID. A state is new if it differs from the newest one of its query; it closes
        older ones of that query which still wait.

        Args:
            owed: changes, each with its handlers.
            listed: the IDs of all events in Consul's ring, if that is what was asked; those are never pruned.

        Returns:
            The handlers that now have something new.
        """
        told: set[str] = set()
        with self._transaction() as db:
            for change, handlers in owed:
                told.update(name for name in handlers if self._owe(db, name, change))
            if listed is not None:
                db.execute("DELETE FROM ring")
                db.executemany("INSERT OR IGNORE INTO ring VALUES (?)", ((one,) for one in listed))
        return told

    def _owe(self, db: sqlite3.Connection, handler: str, change: Change) -> bool:
        identity = change.id
        if not isinstance(change, Event | Notification | Timer):
            newest = db.execute(
                "SELECT digest FROM changes WHERE handler = ? AND query = ? AND kind = ? ORDER BY seq DESC LIMIT 1",
                (handler, change.query, change.kind),
            ).fetchone()
            if newest and newest["digest"] == change.digest:
                return False
            self._supersede(db, handler, change)
            identity = self._free_id(db, handler, f"{change.query}:{identity}"[-120:])
        return self._insert(db, handler, identity, change)

    def _supersede(self, db: sqlite3.Connection, handler: str, change: Change) -> None:
        db.execute(
            "UPDATE changes SET outcome = ?, reason = 'a newer state came', finished = ? WHERE handler = ? AND query = ?"
            " AND kind = ? AND outcome IS NULL AND generation IS NULL",
            (Outcome.EXPIRED, self._clock(), handler, change.query, change.kind),
        )

    def _free_id(self, db: sqlite3.Connection, handler: str, identity: str) -> str:
        """`identity`, or it with #2, #3, ... if the handler had one of that id."""
        base = identity.partition("#")[0]
        taken = {
            row["id"]
            for row in db.execute(
                "SELECT id FROM changes WHERE handler = ? AND (id = ? OR substr(id, 1, ?) = ?)",
                (handler, base, len(base) + 1, f"{base}#"),
            )
        }
        return base if base not in taken else next(f"{base}#{n}" for n in range(2, len(taken) + 3) if f"{base}#{n}" not in taken)

    def _insert(self, db: sqlite3.Connection, handler: str, identity: str, change: Change) -> bool:
        name = change.name if isinstance(change, Event) else None
        done = db.execute(
            "INSERT OR IGNORE INTO changes (handler, id, kind, query, name, digest, idx, body, received)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                handler, identity, change.kind, change.query, name, change.digest, str(change.index),
                json.dumps(change.raw), self._clock(),
            ),
        )  # fmt: skip
        return done.rowcount == 1

    def owe(self, handler: str, change: Change) -> Entry:
        """Write down one change for one handler and return it, as a timer does."""
        self.receive([(change, [handler])])
        rows = self._all("SELECT * FROM changes WHERE handler = ? AND id = ?", handler, change.id)
        return _entry(rows[0])

    def replay(self, identity: str, handler: str | None = None) -> list[Entry]:
        """Owe a change once more to the handlers that had it.

        Raises:
            JournalError: there is no such change, or its payload was wiped by now.
        """
        rows = [row for row in self.find(identity) if handler in (None, row["handler"])]
        if not rows:
            raise JournalError(f"no change {identity!r} in the journal; `agentd history` lists them")
        if any(row["body"] is None for row in rows):
            raise JournalError(f"the payload of {identity!r} was wiped (journal.replayable); fire it again")
        with self._transaction() as db:
            made = [(row["handler"], self._free_id(db, row["handler"], row["id"]), _change(row)) for row in rows]
            for name, free, change in made:
                self._insert(db, name, free, change)
        return [_entry(row) for name, free, _ in made for row in self.find(free) if row["handler"] == name]

    def find(self, identity: str) -> list[sqlite3.Row]:
        """The newest row a handler of the change with this id, or with an id that begins like this if only one does."""
        rows = self._all("SELECT * FROM changes WHERE id = ? ORDER BY seq", identity)
        if not rows and len(identity) >= 4:
            rows = self._all(
                "SELECT * FROM changes WHERE substr(id, 1, ?) = ? AND kind NOT IN ('notification', 'timer') ORDER BY seq",
                len(identity), identity,
            )  # fmt: skip
            if len({row["id"].partition("#")[0] for row in rows}) > 1:
                raise JournalError(f"{identity!r} is the beginning of several ids; give more of it")
        return list({row["handler"]: row for row in rows}.values())

    # -- what is owed

    def pending(self, handler: str, limit: int = 1000) -> list[Entry]:
        """What waits for the handler, in the order of arrival."""
        rows = self._all(
            "SELECT * FROM changes WHERE handler = ? AND outcome IS NULL AND generation IS NULL ORDER BY seq LIMIT ?",
            handler, limit,
        )  # fmt: skip
        return [_entry(row) for row in rows]

    def defer(self, seqs: Sequence[int], reason: str, not_before: float, *, failed: bool) -> None:
        """Try again at `not_before`; `failed` counts it as an attempt."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE changes SET reason = ?, not_before = ?, attempts = attempts + ? WHERE seq = ?",
                ((reason, not_before, int(failed), seq) for seq in seqs),
            )

    def end(self, endings: Sequence[Ending]) -> None:
        """Close entries with their outcomes."""
        with self._transaction() as db:
            for ending in endings:
                self._end(db, ending)

    def _end(self, db: sqlite3.Connection, ending: Ending) -> None:
        now = self._clock()
        db.execute(
            "UPDATE changes SET outcome = ?, reason = ?, generation = ?, paths = ?, started = ?, finished = ?"
            " WHERE seq = ? AND outcome IS NULL",
            (
                ending.outcome, ending.reason, ending.generation, json.dumps(ending.paths),
                now - ending.duration, now, ending.entry.seq,
            ),
        )  # fmt: skip

    # -- commits

    def prepare(self, generation: int, parent: int, plan: Plan) -> None:
        """Write the plan of a commit whose generation is about to become current."""
        body = json.dumps({name: getattr(plan, name) for name in Plan.__dataclass_fields__})
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?, 'prepared', ?)",
                (generation, parent, plan.handler, self._clock(), body),
            )

    def complete(self, generation: int) -> list[Ending]:
        """Carry out the plan of the generation that is now current. Returns what it ended."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT * FROM commits WHERE generation = ? AND state = 'prepared'", (generation,)
            ).fetchone()
            return self._carry_out(db, generation, Plan(**json.loads(row["plan"]))) if row else []

    def settle(self, plan: Plan) -> list[Ending]:
        """Carry out a plan that needs no new generation: only the store and the outcomes."""
        with self._transaction() as db:
            self._save(db, plan)
            return self._end_all(db, (*plan.seqs, *plan.unchanged), Outcome.UNCHANGED, plan)

    def _carry_out(self, db: sqlite3.Connection, generation: int, plan: Plan) -> list[Ending]:
        self._save(db, plan)
        state = "owed" if plan.proved_by and not plan.rollback else "done"
        db.execute("UPDATE commits SET state = ? WHERE generation = ?", (state, generation))
        for told in plan.notify:
            self._insert(db, told, *self._notification(db, told, generation, plan))
        if plan.rollback:
            return self._judge(db, "generation > ?", 0, Outcome.FAILED, plan.reason)
        endings = self._end_all(db, plan.unchanged, Outcome.UNCHANGED, plan, generation)
        if plan.proved_by:
            db.executemany(
                "UPDATE changes SET generation = ?, paths = ?, started = ? WHERE seq = ?",
                ((generation, json.dumps(plan.paths), plan.started, seq) for seq in plan.seqs),
            )
            return endings
        return endings + self._end_all(db, plan.seqs, Outcome.APPLIED, plan, generation)

    def _notification(
        self, db: sqlite3.Connection, told: str, generation: int, plan: Plan
    ) -> tuple[str, Notification]:
        identity = self._free_id(db, told, f"{'rollback' if plan.rollback else 'generation'}-{generation}")
        raw = {
            "id": identity, "generation": generation, "by": plan.handler, "paths": list(plan.paths),
            "rollback": plan.rollback,
        }  # fmt: skip
        return identity, Notification("notify", raw)

    def _save(self, db: sqlite3.Connection, plan: Plan) -> None:
        stores = dict(plan.stores) | ({plan.handler: plan.store} if plan.store is not None else {})
        db.executemany(
            "INSERT OR REPLACE INTO store VALUES (?, ?)", ((name, json.dumps(body)) for name, body in stores.items())
        )

    def _end_all(
        self,
        db: sqlite3.Connection,
        seqs: Iterable[int],
        outcome: Outcome,
        plan: Plan,
        generation: int | None = None,
    ) -> list[Ending]:
        now, endings = self._clock(), []
        for seq in seqs:
            row = db.execute("SELECT * FROM changes WHERE seq = ? AND outcome IS NULL", (seq,)).fetchone()
            if row is None:
                continue
            paths = plan.paths if outcome is Outcome.APPLIED else ()
            started = plan.started or row["started"] or now
            reason = plan.reason or ("" if outcome is Outcome.APPLIED else row["reason"])
            endings.append(Ending(_entry(row), outcome, reason, generation, paths, now - started, now - row["received"]))
            self._end(db, endings[-1])
        return endings

    # -- proofs

    def prove(self, generation: int) -> list[Ending]:
        """All commits up to `generation` are live: the entries that waited for it are applied."""
        with self._transaction() as db:
            return self._judge(db, "generation <= ?", generation, Outcome.APPLIED, "")

    def _judge(
        self, db: sqlite3.Connection, which: str, generation: int, outcome: Outcome, reason: str
    ) -> list[Ending]:
        db.execute(f"UPDATE commits SET state = 'done' WHERE state = 'owed' AND {which}", (generation,))  # noqa: S608 (constants of this module)
        rows = db.execute(
            f"SELECT * FROM changes WHERE outcome IS NULL AND generation IS NOT NULL AND {which} ORDER BY seq",  # noqa: S608 (as above)
            (generation,),
        ).fetchall()
        endings = []
        for row in rows:
            plan = Plan(row["handler"], paths=tuple(json.loads(row["paths"])), started=row["started"], reason=reason)
            endings += self._end_all(db, [row["seq"]], outcome, plan, row["generation"])
        return endings

    def last_proved(self) -> int | None:
        """The generation that was current before the first commit that still waits for its proof, or None."""
        rows = self._all("SELECT parent FROM commits WHERE state = 'owed' ORDER BY generation LIMIT 1")
        return int(rows[0]["parent"]) if rows else None

    def owed(self) -> list[int]:
        """The generations that wait for a proof."""
        return [row["generation"] for row in self._all("SELECT generation FROM commits WHERE state = 'owed'")]

    def recover(self, current: int) -> list[Ending]:
        """After a crash: complete the plan whose generation became current, drop one that did not."""
        rows = self._all("SELECT generation FROM commits WHERE state = 'prepared'")
        endings = [one for row in rows if row["generation"] == current for one in self.complete(current)]
        with self._transaction() as db:
            db.execute("DELETE FROM commits WHERE state = 'prepared'")
        return endings

    def last_generation(self) -> int:
        """The highest generation that the journal knows of, so that a deleted tree never counts from 1 again."""
        rows = self._all("SELECT max(generation) AS most FROM commits")
        return int(rows[0]["most"] or 0)

    # -- small values of handlers

    def store(self, handler: str) -> dict[str, Any]:
        """A copy of the handler's store."""
        rows = self._all("SELECT body FROM store WHERE handler = ?", handler)
        return dict(json.loads(rows[0]["body"])) if rows else {}

    def stores(self) -> dict[str, dict[str, Any]]:
        """A copy of every handler's store."""
        return {row["handler"]: json.loads(row["body"]) for row in self._all("SELECT * FROM store")}

    def reconfigured(self, handler: str, fingerprint: str) -> bool:
        """Note how the handler is configured now; if it changed, owe it the newest state of each query again."""
        with self._transaction() as db:
            known = db.execute("SELECT fingerprint FROM configured WHERE handler = ?", (handler,)).fetchone()
            db.execute("INSERT OR REPLACE INTO configured VALUES (?, ?)", (handler, fingerprint))
            if known is None or known["fingerprint"] == fingerprint:
                return False
            rows = db.execute(
                "SELECT * FROM changes WHERE seq IN (SELECT max(seq) FROM changes WHERE handler = ?"
                " AND kind NOT IN ('event', 'notification', 'timer') GROUP BY query) AND outcome IS NOT NULL",
                (handler,),
            ).fetchall()
            for row in rows:
                if row["body"] is not None:
                    self._insert(db, handler, self._free_id(db, handler, row["id"]), _change(row))
            return True

    # -- history

    def history(
        self, *, limit: int = 50, handler: str | None = None, identity: str | None = None
    ) -> list[dict[str, Any]]:
        """What came and what became of it, newest first; payloads are not in it."""
        rows = self._all(
            "SELECT seq, handler, id, kind, query, name, received, attempts, not_before, generation, outcome, reason,"
            " paths, started, finished FROM changes WHERE (?1 IS NULL OR handler = ?1)"
            " AND (?2 IS NULL OR substr(id, 1, length(?2)) = ?2) ORDER BY seq DESC LIMIT ?3",
            handler, identity, limit,
        )  # fmt: skip
        return [dict(row) | {"paths": json.loads(row["paths"])} for row in rows]

    def backlog(self) -> dict[str, int]:
        """How many entries wait, by handler."""
        rows = self._all("SELECT handler, count(*) AS n FROM changes WHERE outcome IS NULL GROUP BY handler")
        return {row["handler"]: row["n"] for row in rows}

    def tidy(self, *, keep: float, replayable: float) -> None:
        """Wipe payloads older than `replayable` seconds and rows older than `keep`, but never what is owed.

        The newest state of each query keeps its payload, and rows of events that Consul still lists stay.
        """
        now = self._clock()
        with self._transaction() as db:
            db.execute(
                "UPDATE changes SET body = NULL WHERE body IS NOT NULL AND finished < ?"
                " AND seq NOT IN (SELECT max(seq) FROM changes WHERE kind <> 'event' GROUP BY handler, query)",
                (now - replayable,),
            )
            db.execute(
                "DELETE FROM changes WHERE finished < ? AND substr(id, 1, 36) NOT IN (SELECT id FROM ring)"
                " AND seq <= (SELECT max(seq) FROM changes) - ?"
                " AND seq NOT IN (SELECT max(seq) FROM changes WHERE kind <> 'event' GROUP BY handler, query)",
                (now - keep, _FEWEST),
            )


def _change(row: sqlite3.Row) -> Change:
    return KINDS[row["kind"]](row["query"], json.loads(row["body"]), int(row["idx"]))


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        seq=row["seq"],
        handler=row["handler"],
        id=row["id"],
        change=_change(row),
        attempts=row["attempts"],
        received=row["received"],
        not_before=row["not_before"],
        generation=row["generation"],
    )

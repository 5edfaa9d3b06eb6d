"""The journal's half of a commit: planned before `current` moves, carried out after, later proved or undone.

A commit spans two stores, the journal and the tree; where `current` points decides. `prepare` writes the
plan, the tree flips, `complete` carries the plan out, and `recover` completes or drops one that a crash left
behind. Callers hold the tree's lock, so that at most one plan is on its way. It never touches the tree.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from agentd.apply.journal import Journal
from agentd.apply.outcome import Ending, Outcome
from agentd.apply.plan import Move, Plan, Rollback, parse, text
from agentd.apply.rows import COMMITTED, WAITS, close, ending_of, free_id, insert
from agentd.errors import AgentdError
from agentd.watch.changes import Notification


class Overtaken(AgentdError):  # noqa: N818 (it says what happened; nothing went wrong)
    """Since the batch was begun, its handler's files or store moved under it: begin again."""


class Ledger:
    """The commits in a journal. Every method is one transaction.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database
        self._clock = journal.clock

    # ------------------------------------------------------------------ one move of `current`

    def prepare(self, generation: int, parent: int, move: Move) -> None:
        """Write down what it means that `generation` is about to become current after `parent`.

        Raises:
            Overtaken: a batch does not stand on what it began with.
        """
        with self._database.transaction(synced=True) as db:
            self._stand(db, move)
            db.execute("DELETE FROM plans")
            db.execute("INSERT INTO plans VALUES (?, ?, ?)", (generation, parent, text(move)))

    def complete(self, generation: int) -> list[Ending]:
        """Carry out the plan of the generation that is now current. Returns what it ended."""
        with self._database.transaction() as db:
            return self._finish(db, generation)

    def recover(self, current: int) -> list[Ending]:
        """Complete the plan that a crash left behind if its generation became current, else drop it."""
        if not self._database.rows("SELECT 1 FROM plans"):
            return []
        return self.complete(current)

    def settle(self, plan: Plan) -> list[Ending]:
        """Carry out a plan for which no file differs: only the store and the outcomes.

        Raises:
            Overtaken: the batch does not stand on what it began with.
        """
        with self._database.transaction() as db:
            self._stand(db, plan)
            self._save(db, plan)
            idle = [seq for seq in (*plan.seqs, *plan.unchanged) if seq not in plan.ran]
            return self._end_batch(db, plan, idle, plan.ran)

    def _finish(self, db: sqlite3.Connection, current: int) -> list[Ending]:
        row = db.execute("SELECT * FROM plans WHERE generation = ?", (current,)).fetchone()
        db.execute("DELETE FROM plans")
        if row is None:
            return []
        move = parse(row["body"])
        if isinstance(move, Rollback):
            return self._undo(db, current, row["parent"], move)
        return self._apply(db, current, row["parent"], move)

    def _stand(self, db: sqlite3.Connection, move: Move) -> None:
        if isinstance(move, Rollback):
            return
        seqs = [*move.seqs, *move.unchanged, *(seq for seq, _ in move.refused)]
        waiting = db.execute(
            f"SELECT count(*) FROM changes WHERE {WAITS} AND seq IN (SELECT value FROM json_each(?))",  # noqa: S608 (a constant)
            (json.dumps(seqs),),
        ).fetchone()[0]
        if waiting != len(seqs) or move.ground not in (None, _ground(db, move.handler)):
            raise Overtaken(f"{move.handler}: what it worked on moved meanwhile; it begins again")

    # ------------------------------------------------------------------ a commit

    def _apply(self, db: sqlite3.Connection, generation: int, parent: int, plan: Plan) -> list[Ending]:
        self._save(db, plan)
        state = _state(db, plan)
        self._record(db, generation, parent, plan.handler, state)
        self._notify(db, generation, plan)
        _mark(db, plan.seqs, generation, plan.paths, plan.started)
        idle = [seq for seq in plan.unchanged if seq not in plan.ran]
        did = [seq for seq in plan.unchanged if seq in plan.ran]
        if state == "done":
            did.extend(plan.seqs)
        return self._end_batch(db, plan, idle, did)

    def _end_batch(
        self, db: sqlite3.Connection, plan: Plan, idle: Iterable[int], did: Iterable[int]
    ) -> list[Ending]:
        ends = dict.fromkeys(idle, (Outcome.UNCHANGED, ""))
        ends |= dict.fromkeys(did, (Outcome.APPLIED, ""))
        ends |= {seq: (Outcome.REFUSED, reason) for seq, reason in plan.refused}
        endings: list[Ending] = []
        for seq, (outcome, reason) in sorted(ends.items()):
            db.execute(
                "UPDATE changes SET started = ? WHERE seq = ? AND outcome IS NULL",
                (plan.started or None, seq),
            )
            endings += self._end(db, "seq = ? AND outcome IS NULL", seq, outcome, reason)
        return endings

    def _save(self, db: sqlite3.Connection, plan: Plan) -> None:
        for handler, store in {plan.handler: plan.store, **plan.stores}.items():
            db.execute("INSERT OR IGNORE INTO store (handler) VALUES (?)", (handler,))
            db.execute("UPDATE store SET ground = ground + 1 WHERE handler = ?", (handler,))
            if store is not None:
                _put(db, handler, store)
        for handler in plan.dropped:  # should it come back, it begins anew, and gets its states again
            db.execute("UPDATE store SET body = '{}', ground = ground + 1 WHERE handler = ?", (handler,))
            db.execute("DELETE FROM configured WHERE handler = ?", (handler,))

    # ------------------------------------------------------------------ a rollback

    def _undo(self, db: sqlite3.Connection, to: int, parent: int, move: Rollback) -> list[Ending]:
        self._replace_stores(db, move.stores)
        if move.again:
            self._requeue(
                db, "generation IN (SELECT generation FROM commits WHERE state = 'rides')", to, move.reason
            )
        endings = self._end(db, f"{COMMITTED} AND generation > ?", to, Outcome.FAILED, move.reason)
        db.execute("UPDATE commits SET state = 'done' WHERE generation > ?", (to,))
        self._record(db, to, parent, "rollback", "done")
        self._notify(db, to, move)
        return endings

    def _requeue(self, db: sqlite3.Connection, which: str, to: int, reason: str) -> None:
        db.execute(
            "UPDATE changes SET generation = NULL, paths = '[]', started = NULL, reason = ?"  # noqa: S608 (constants of this module)
            f" WHERE {COMMITTED} AND generation > ? AND {which}",
            (f"again: {reason}", to),
        )

    def _replace_stores(self, db: sqlite3.Connection, stores: Mapping[str, Mapping[str, Any]]) -> None:
        """Every handler has the store it had then; who had none has an empty one."""
        db.execute("UPDATE store SET body = '{}', ground = ground + 1")
        for handler, body in stores.items():
            db.execute("INSERT OR IGNORE INTO store (handler) VALUES (?)", (handler,))
            _put(db, handler, body)

    # ------------------------------------------------------------------ both

    def _record(self, db: sqlite3.Connection, generation: int, parent: int, handler: str, state: str) -> None:
        db.execute(
            "INSERT INTO commits (generation, parent, handler, at, state) VALUES (?, ?, ?, ?, ?)",
            (generation, parent, handler, self._clock(), state),
        )

    def _notify(self, db: sqlite3.Connection, generation: int, move: Move) -> None:
        rollback = isinstance(move, Rollback)
        by = "rollback" if isinstance(move, Rollback) else move.handler
        for told in move.notify:
            identity = free_id(db, told, f"{'rollback' if rollback else 'generation'}-{generation}")
            raw = {
                "id": identity,
                "generation": generation,
                "by": by,
                "paths": list(move.paths),
                "rollback": rollback,
            }
            insert(db, told, identity, Notification("notify", raw), self._clock())

    def _end(
        self, db: sqlite3.Connection, which: str, value: int, outcome: Outcome, reason: str
    ) -> list[Ending]:
        now = self._clock()
        rows = db.execute(f"SELECT * FROM changes WHERE {which} ORDER BY seq", (value,)).fetchall()  # noqa: S608 (constants of this module)
        endings = [ending_of(row, outcome, reason, now) for row in rows]
        return [ending for ending in endings if close(db, ending, now)]

    # ------------------------------------------------------------------ proofs

    def prove(self, generation: int) -> list[Ending]:
        """All commits up to `generation` are live: the entries that waited for it are applied."""
        with self._database.transaction() as db:
            db.execute("UPDATE commits SET state = 'done' WHERE generation <= ?", (generation,))
            return self._end(db, f"{COMMITTED} AND generation <= ?", generation, Outcome.APPLIED, "")

    def last_proved(self) -> int | None:
        """The generation that was current before the first commit that still waits for its proof, or None."""
        rows = self._database.rows("SELECT parent FROM commits WHERE state = 'owed' ORDER BY seq LIMIT 1")
        return int(rows[0]["parent"]) if rows else None

    # ------------------------------------------------------------------ what batches and restarts stand on

    def ground(self, handler: str) -> int:
        """A number that changes whenever the handler's files or store are committed or rolled back."""
        rows = self._database.rows("SELECT ground FROM store WHERE handler = ?", handler)
        return int(rows[0]["ground"]) if rows else 0

    def current(self) -> int:
        """The generation that is current as far as the journal knows, 0 if it knows of none."""
        rows = self._database.rows("SELECT generation FROM commits ORDER BY seq DESC LIMIT 1")
        return int(rows[0]["generation"]) if rows else 0

    def adopt(self, current: int, stores: Mapping[str, Mapping[str, Any]]) -> None:
        """Follow a tree whose `current` moved without the journal: moved by hand, lost, or the journal was.

        The stores become those of that generation; what was committed after it is handled again.
        """
        with self._database.transaction() as db:
            self._replace_stores(db, stores)
            self._requeue(db, "1", current, "its generation is gone")
            db.execute("UPDATE commits SET state = 'done' WHERE generation > ?", (current,))
            self._record(db, current, self.current(), "adopted", "done")


def _ground(db: sqlite3.Connection, handler: str) -> int:
    row = db.execute("SELECT ground FROM store WHERE handler = ?", (handler,)).fetchone()
    return int(row["ground"]) if row else 0


def _state(db: sqlite3.Connection, plan: Plan) -> str:
    """Whether a commit waits for its own proof, or for that of one before it, whose failure undoes it too."""
    if plan.proved_by:
        return "owed"
    return "rides" if db.execute("SELECT 1 FROM commits WHERE state = 'owed'").fetchone() else "done"


def _mark(
    db: sqlite3.Connection, seqs: Iterable[int], generation: int, paths: Iterable[str], started: float
) -> None:
    """Note on the entries which generation holds them."""
    db.executemany(
        "UPDATE changes SET generation = ?, paths = ?, started = ? WHERE seq = ? AND outcome IS NULL",
        ((generation, json.dumps(list(paths)), started or None, seq) for seq in seqs),
    )


def _put(db: sqlite3.Connection, handler: str, body: Mapping[str, Any]) -> None:
    db.execute("UPDATE store SET body = ? WHERE handler = ?", (json.dumps(dict(body)), handler))

"""The journal's half of a commit: planned before `current` moves, carried out after, later proved or undone.

A commit spans the journal and the tree; where `current` points decides whether it happened. `prepare` writes
the plan, the tree flips, `complete` carries the plan out; after a crash `recover` completes or drops it.
Callers hold the tree's lock, so there is never more than one plan. Nothing here touches the tree.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agentd.errors import AgentdError
from agentd.journal import numbers
from agentd.journal.entry import Ending, Outcome
from agentd.journal.journal import Journal
from agentd.journal.plan import Move, Plan, Rollback, parse, text
from agentd.journal.rows import COMMITTED, WAITS, close, ending_of, free_id, insert, kept
from agentd.watch.changes import Notification

# Only those that are open, since all that ever were would be written again.
_CLOSE_COMMITS: Final = "UPDATE commits SET state = 'done' WHERE state <> 'done' AND generation "
# Commits that wait for a proof; in words that the index on open commits knows.
_UNPROVED: Final = "state <> 'done' AND state <> 'live'"
# Commits that were proved, and are now to be verified; SQL with the name of who verifies as its value.
_VERIFIES: Final = "state = 'live' AND instr(verify, ' ' || ?1 || ' ')"
# The entries of such commits.
_LIVE: Final = f"{COMMITTED} AND generation IN (SELECT generation FROM commits WHERE {_VERIFIES})"  # noqa: S608 (constants)


class Overtaken(AgentdError):  # noqa: N818 (nothing went wrong)
    """The handler's files, store or changes moved on after the batch began: start over."""


class Commits:
    """The commits in a journal. Every method is one transaction.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database
        self._clock = journal.clock

    # ------------------------------------------------------------------ one move of `current`

    def prepare(self, generation: int, parent: int, move: Move) -> None:
        """Record what to do once `generation` has become current after `parent`.

        Raises:
            Overtaken: what a batch is based on has changed.
        """
        with self._database.transaction(synced=True) as db:
            self._require_unchanged(db, move)
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
            Overtaken: what the batch is based on has changed.
        """
        with self._database.transaction() as db:
            self._require_unchanged(db, plan)
            self._save(db, plan)
            numbers.note(db, (*plan.seqs, *plan.unchanged))
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

    def _require_unchanged(self, db: sqlite3.Connection, move: Move) -> None:
        if isinstance(move, Rollback):
            return
        seqs = [*move.seqs, *move.unchanged, *(seq for seq, _ in move.refused)]
        waiting = db.execute(
            f"SELECT count(*) FROM changes WHERE {WAITS} AND seq IN (SELECT value FROM json_each(?))",  # noqa: S608 (a constant)
            (json.dumps(seqs),),
        ).fetchone()[0]
        if waiting != len(seqs) or move.revision not in (None, _revision(db, move.handler)):
            raise Overtaken(
                f"{move.handler}: its changes or its files moved on in the meantime; starting over"
            )

    # ------------------------------------------------------------------ a commit

    def _apply(self, db: sqlite3.Connection, generation: int, parent: int, plan: Plan) -> list[Ending]:
        self._save(db, plan)
        state = _state(db, plan)
        self._record(db, generation, parent, plan.handler, state, plan.verified_by)
        self._notify(db, generation, plan)
        _mark(db, plan.seqs, generation, plan.paths, plan.started)
        numbers.note(db, (*plan.seqs, *plan.unchanged), generation)
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
            db.execute("UPDATE store SET revision = revision + 1 WHERE handler = ?", (handler,))
            if store is not None:
                _put(db, handler, store)
        for handler in plan.dropped:  # if it comes back, it starts from scratch, and gets its states again
            db.execute("UPDATE store SET body = '{}', revision = revision + 1 WHERE handler = ?", (handler,))
            db.execute("DELETE FROM configured WHERE handler = ?", (handler,))
            db.execute("DELETE FROM numbers WHERE handler = ?", (handler,))

    # ------------------------------------------------------------------ a rollback

    def _undo(self, db: sqlite3.Connection, to: int, parent: int, move: Rollback) -> list[Ending]:
        self._replace_stores(db, move.stores)
        numbers.move_back(db, to, move.numbers)
        if move.again:
            self._requeue(
                db, "generation IN (SELECT generation FROM commits WHERE state = 'rides')", to, move.reason
            )
        endings = self._end(db, f"{COMMITTED} AND generation > ?", to, Outcome.FAILED, move.reason)
        db.execute(_CLOSE_COMMITS + "> ?", (to,))
        self._record(db, to, parent, "disproof" if move.again else "rollback", "done")
        self._notify(db, to, move)
        return endings

    def _requeue(self, db: sqlite3.Connection, which: str, to: int, reason: str) -> None:
        db.execute(
            "UPDATE changes SET generation = NULL, paths = '[]', started = NULL, reason = ?"  # noqa: S608 (constants of this module)
            f" WHERE {COMMITTED} AND generation > ? AND {which}",
            (kept(f"again: {reason}"), to),
        )

    def _replace_stores(self, db: sqlite3.Connection, stores: Mapping[str, Mapping[str, Any]]) -> None:
        """Give every handler the store that it had then, or an empty one."""
        db.execute("UPDATE store SET body = '{}', revision = revision + 1")
        for handler, body in stores.items():
            db.execute("INSERT OR IGNORE INTO store (handler) VALUES (?)", (handler,))
            _put(db, handler, body)

    # ------------------------------------------------------------------ both

    def _record(
        self,
        db: sqlite3.Connection,
        generation: int,
        parent: int,
        handler: str,
        state: str,
        verified_by: Iterable[str] = (),
    ) -> None:
        db.execute(
            "INSERT INTO commits (generation, parent, handler, at, state, verify) VALUES (?, ?, ?, ?, ?, ?)",
            (generation, parent, handler, self._clock(), state, _words(verified_by)),
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
        self, db: sqlite3.Connection, which: str, value: int | str, outcome: Outcome, reason: str
    ) -> list[Ending]:
        now = self._clock()
        rows = db.execute(f"SELECT * FROM changes WHERE {which} ORDER BY seq", (value,)).fetchall()  # noqa: S608 (constants of this module)
        # That nginx was not running is still worth a word when another handler had to verify the change.
        told = {row["seq"]: row["reason"] for row in rows if row["reason"].startswith("committed; ")}
        endings = [ending_of(row, outcome, reason or told.get(row["seq"], ""), now) for row in rows]
        return [ending for ending in endings if close(db, ending, now)]

    # ------------------------------------------------------------------ proofs

    def prove(self, generation: int, skipped: str = "") -> list[Ending]:
        """All commits up to `generation` are live: what waited for that is applied, or waits to be verified.

        Args:
            generation: the one that was proved.
            skipped: why there was nothing to prove, so that its own handler has nothing to verify either.
        """
        unproved = f"{_UNPROVED} AND generation <= ?"
        with self._database.transaction() as db:
            if skipped:
                db.execute(
                    "UPDATE commits SET verify = replace(verify, ' ' || handler || ' ', ' ')"  # noqa: S608 (constants)
                    f" WHERE {unproved}",
                    (generation,),
                )
            db.execute(
                f"UPDATE commits SET state = iif(verify = ' ', 'done', 'live') WHERE {unproved}",  # noqa: S608 (likewise)
                (generation,),
            )
            live = f"{COMMITTED} AND generation IN (SELECT generation FROM commits WHERE state = 'live')"  # noqa: S608 (a constant)
            db.execute(
                f"UPDATE changes SET reason = ? WHERE {live} AND (reason = '' OR reason LIKE 'not live: %')",  # noqa: S608 (likewise)
                (skipped,),
            )
            which = f"{COMMITTED} AND generation <= ? AND NOT ({live})"
            return self._end(db, which, generation, Outcome.APPLIED, skipped)

    def not_live(self, generation: int, reason: str) -> None:
        """Note on the entries that wait for the proof of `generation` why it is not there yet."""
        with self._database.transaction() as db:
            db.execute(
                f"UPDATE changes SET reason = ?1 WHERE {COMMITTED} AND generation <= ?2 AND reason <> ?1"  # noqa: S608 (constants)
                " AND generation NOT IN (SELECT generation FROM commits WHERE state = 'live')",
                (kept(f"not live: {reason}"), generation),
            )

    def to_verify(self, handler: str) -> int | None:
        """The newest generation that is live and that this handler is still to verify, or None."""
        question = f"SELECT max(generation) AS newest FROM commits WHERE {_VERIFIES}"  # noqa: S608 (a constant)
        rows = self._database.rows(question, handler)
        newest: int | None = rows[0]["newest"]
        return newest

    def verifying(self) -> list[str]:
        """The handlers that have something to verify."""
        rows = self._database.rows("SELECT DISTINCT verify FROM commits WHERE state = 'live'")
        return sorted({name for row in rows for name in row["verify"].split()})

    def awaits_proof(self, handler: str) -> bool:
        """Whether files of this handler are not proved live, so that it is too early to verify them."""
        return bool(
            self._database.rows(
                f"SELECT 1 FROM commits WHERE {_UNPROVED} AND handler IN (?, 'start') LIMIT 1",  # noqa: S608 (a constant)
                handler,
            )
        )

    def verified(self, handler: str, generation: int, reason: str = "") -> list[Ending]:
        """What the handler was to verify, up to `generation`, takes effect; `reason` says more.

        Whatever no other handler is still to verify is applied.
        """
        done = "state = 'live' AND verify = ' ' AND generation <= ?"
        with self._database.transaction() as db:
            db.execute(
                f"UPDATE changes SET reason = '' WHERE {_LIVE} AND reason LIKE 'not in effect: %'",  # noqa: S608 (constants)
                (handler,),
            )
            db.execute(
                f"UPDATE commits SET verify = replace(verify, ' ' || ?1 || ' ', ' ') WHERE {_VERIFIES}"  # noqa: S608 (likewise)
                " AND generation <= ?2",
                (handler, generation),
            )
            which = f"{COMMITTED} AND generation IN (SELECT generation FROM commits WHERE {done})"  # noqa: S608 (likewise)
            endings = self._end(db, which, generation, Outcome.APPLIED, reason)
            db.execute(f"UPDATE commits SET state = 'done' WHERE {done}", (generation,))  # noqa: S608 (likewise)
            return endings

    def not_in_effect(self, handler: str, reason: str) -> None:
        """Note on the entries that this handler is still to verify why they do not end."""
        with self._database.transaction() as db:
            db.execute(
                f"UPDATE changes SET reason = ?2 WHERE {_LIVE} AND reason <> ?2",  # noqa: S608 (constants)
                (handler, kept(f"not in effect: {reason}")),
            )

    def release(self, verifying: Iterable[str]) -> list[Ending]:
        """End as applied what waits to be verified by handlers that are not among `verifying` any more."""
        gone = [(name, self.to_verify(name) or 0) for name in self.verifying() if name not in set(verifying)]
        return [
            ending
            for name, newest in gone
            for ending in self.verified(name, newest, f"live; {name} is no longer configured to verify it")
        ]

    def last_proved(self) -> int | None:
        """The generation that was current before the first commit that still waits for its proof, or None."""
        rows = self._database.rows("SELECT parent FROM commits WHERE state = 'owed' ORDER BY seq LIMIT 1")
        return int(rows[0]["parent"]) if rows else None

    def owed_since(self) -> float | None:
        """Unix time of the first commit that still waits for its proof, or None."""
        rows = self._database.rows("SELECT at FROM commits WHERE state = 'owed' ORDER BY seq LIMIT 1")
        return float(rows[0]["at"]) if rows else None

    # ------------------------------------------------------------------ where a batch or a restart begins

    def revision(self, handler: str) -> int:
        """A number that changes whenever the handler's files or store are committed or rolled back."""
        rows = self._database.rows("SELECT revision FROM store WHERE handler = ?", handler)
        return int(rows[0]["revision"]) if rows else 0

    def current(self) -> int:
        """The generation that is current as far as the journal knows, 0 if it knows of none."""
        rows = self._database.rows("SELECT generation FROM commits ORDER BY seq DESC LIMIT 1")
        return int(rows[0]["generation"]) if rows else 0

    def adopt(
        self,
        current: int,
        stores: Mapping[str, Mapping[str, Any]],
        told: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Follow a tree whose `current` moved without the journal: by hand, or because either was lost.

        The stores become those of that generation, and so do the numbers in force, as its manifest has `told`
        them; what was committed after it is handled again.
        """
        with self._database.transaction() as db:
            self._replace_stores(db, stores)
            numbers.move_back(db, current, told or {})
            self._requeue(db, "1", current, "its generation is gone")
            db.execute(_CLOSE_COMMITS + "> ?", (current,))
            self._record(db, current, self.current(), "adopted", "done")


def _revision(db: sqlite3.Connection, handler: str) -> int:
    row = db.execute("SELECT revision FROM store WHERE handler = ?", (handler,)).fetchone()
    return int(row["revision"]) if row else 0


def _state(db: sqlite3.Connection, plan: Plan) -> str:
    """Whether a commit waits for its own proof, or for that of one before it, whose failure undoes it too."""
    if plan.proved_by:
        return "owed"
    if db.execute("SELECT 1 FROM commits WHERE state = 'owed'").fetchone():
        return "rides"
    return "live" if plan.verified_by else "done"


def _words(names: Iterable[str]) -> str:
    """With a space before and after each, so that none is found in another."""
    return " " + "".join(f"{name} " for name in names)


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

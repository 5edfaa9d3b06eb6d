"""The rows of the journal's `changes` table: one for each change and each handler that is owed it.

Owns how a change is written and read back. Callers hold the transaction.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from agentd.apply.outcome import Ending, Entry, Outcome
from agentd.watch.changes import KINDS, Change, Event, Notification, Timer

WAITS: Final = "outcome IS NULL AND generation IS NULL"
"""SQL: the entry is in its handler's mailbox."""
COMMITTED: Final = "outcome IS NULL AND generation IS NOT NULL"
"""SQL: the entry is part of a generation and waits for its proof."""


def is_state(change: Change) -> bool:
    """Whether a newer change of the same query makes this one void."""
    return not isinstance(change, Event | Notification | Timer)


def change_of(row: sqlite3.Row) -> Change:
    """The change as it came; its payload must not be wiped."""
    return KINDS[row["kind"]](row["query"], json.loads(row["body"]), int(row["idx"]))


def entry_of(row: sqlite3.Row) -> Entry:
    """The row as workers know it."""
    return Entry(
        seq=row["seq"],
        handler=row["handler"],
        id=row["id"],
        change=change_of(row),
        attempts=row["attempts"],
        received=row["received"],
        not_before=row["not_before"],
        generation=row["generation"],
    )


def insert(db: sqlite3.Connection, handler: str, identity: str, change: Change, now: float) -> bool:
    """Owe the change to the handler; False if it had one of this id."""
    done = db.execute(
        "INSERT INTO changes (handler, id, kind, query, name, digest, idx, body, received)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (handler, id) DO NOTHING",
        (
            handler,
            identity,
            change.kind,
            change.query,
            change.name if isinstance(change, Event) else None,
            change.digest,
            str(change.index),
            json.dumps(change.raw),
            now,
        ),
    )
    return done.rowcount == 1


def free_id(db: sqlite3.Connection, handler: str, identity: str) -> str:
    """`identity`, or it with #2, #3, ... if the handler had one of that id."""
    plain = identity.partition("#")[0]
    taken = {
        row["id"]
        for row in db.execute(
            "SELECT id FROM changes WHERE handler = ? AND (id = ? OR substr(id, 1, ?) = ?)",
            (handler, plain, len(plain) + 1, f"{plain}#"),
        )
    }
    candidates = (plain, *(f"{plain}#{number}" for number in range(2, len(taken) + 3)))
    return next(one for one in candidates if one not in taken)


def close(db: sqlite3.Connection, ending: Ending, now: float) -> bool:
    """Write down how an entry ended; False if it had ended before."""
    done = db.execute(
        "UPDATE changes SET outcome = ?, reason = ?, generation = ?, paths = ?, started = ?, finished = ?"
        " WHERE seq = ? AND outcome IS NULL",
        (
            ending.outcome,
            ending.reason,
            ending.generation,
            json.dumps(ending.paths),
            now - ending.duration,
            now,
            ending.entry.seq,
        ),
    )
    return done.rowcount == 1


def ending_of(row: sqlite3.Row, outcome: Outcome, reason: str, now: float) -> Ending:
    """The end, now, of what the row says was begun."""
    return Ending(
        entry_of(row),
        outcome,
        reason,
        generation=row["generation"],
        paths=tuple(json.loads(row["paths"])),
        duration=max(0.0, now - (row["started"] or now)),
        waited=max(0.0, now - row["received"]),
    )

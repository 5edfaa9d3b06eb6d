"""The rows of the journal's table `changes`: how a change is written to one, and read back.

Owns the SQL that adds and ends entries. Every function works within the caller's transaction, and none
decides what happens to an entry: that is up to `journal` and `commits`.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from agentd.errors import JournalError
from agentd.journal.entry import BEFORE_START, SUPERSEDED_BY, Ending, Entry, Outcome
from agentd.watch.changes import KINDS, Change, Event, Notification, Timer, digest_of

_UNREADABLE: Final = "a row of the journal cannot be read: restart agentd, which repairs what it can"
_LONGEST_REASON: Final = 8192  # characters of a reason to keep

WAITS: Final = "outcome IS NULL AND generation IS NULL"
"""SQL condition: the entry waits for its handler."""
SAME_ID: Final = "id >= ? AND id < ? AND (id = ? OR id > ?)"
"""SQL condition: the entry has this ID, plain or with #2, #3, ...; written so that it uses an index."""
COMMITTED: Final = "outcome IS NULL AND generation IS NOT NULL"
"""SQL condition: the entry is part of a generation, and waits for its proof."""
STATE: Final = "kind NOT IN ('event', 'notification', 'timer')"
"""SQL condition: the entry is a state."""


def kept(reason: str) -> str:
    """Shorten a reason for the journal: keep both ends, since a handler may quote a whole payload."""
    if len(reason) <= _LONGEST_REASON:
        return reason
    half = _LONGEST_REASON // 2
    return f"{reason[:half]} ... ({len(reason)} characters) ... {reason[-half:]}"


def is_state(change: Change) -> bool:
    """Whether the change is a state, which a newer change of the same query replaces."""
    return not isinstance(change, Event | Notification | Timer)


def change_of(row: sqlite3.Row) -> Change:
    """The change as received. Raises JournalError if its payload was wiped or cannot be read."""
    try:
        body, kind, place = row["body"], KINDS[row["kind"]], (int(row["idx"]), row["epoch"])
        if kind is Event:
            return Event(row["query"], json.loads(body), *place, undated=bool(row["undated"]))
        if digest_of(body) == row["digest"]:  # as it was written: it can be parsed when somebody asks
            return kind.of_text(row["query"], body, *place)
        return kind(row["query"], json.loads(body), *place)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise JournalError(_UNREADABLE) from error


def parsed(text: str) -> Any:  # noqa: ANN401 (any JSON)
    """Parse the JSON in a column. Raises JournalError if it is not JSON."""
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
    """Add the change for the handler; False if the handler already had one with this ID."""
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
            change.text,
            now,
        ),
    )
    if is_state(change):
        _wipe_superseded(db, handler, change.query)
    return done.rowcount == 1


def insert_refused(
    db: sqlite3.Connection, handler: str, identity: str, change: Change, reason: str, now: float
) -> Ending | None:
    """Add a change that the handler is never given, and end it as refused; without its payload.

    Returns:
        How it ended; None if the handler already had one with this ID.
    """
    if not insert(db, handler, identity, change, now):
        return None
    entry = read_entry(db, handler, identity)
    ending = Ending(entry, Outcome.REFUSED, reason)
    close(db, ending, now)
    db.execute("UPDATE changes SET body = NULL WHERE seq = ?", (entry.seq,))
    return ending


def _wipe_superseded(db: sqlite3.Connection, handler: str, query: str) -> None:
    """Wipe the payloads of ended states of this query, except the newest: nobody needs them any more."""
    db.execute(
        "UPDATE changes SET body = NULL WHERE handler = ?1 AND query = ?2 AND body IS NOT NULL"  # noqa: S608 (a constant)
        f" AND outcome IS NOT NULL AND {STATE}"
        " AND seq < (SELECT max(seq) FROM changes WHERE handler = ?1 AND query = ?2)",
        (handler, query),
    )


def same_id(identity: str) -> tuple[str, str, str, str]:
    """The values for `SAME_ID`."""
    return identity, f"{identity}$", identity, f"{identity}#"  # in ASCII, "$" follows "#"


def free_id(db: sqlite3.Connection, handler: str, identity: str) -> str:
    """`identity`, with #2, #3, ... appended if the handler already had a change with that ID."""
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
    """Record how an entry ended; False if it had already ended before."""
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
    change = ending.entry.change
    if is_state(change):
        _wipe_superseded(db, ending.entry.handler, change.query)
    if isinstance(change, Event) and change.message and change.message.snapshot:
        _judge(db, ending, change.name, change.index)
    return done.rowcount == 1


def _judge(db: sqlite3.Connection, ending: Ending, name: str, num: int) -> None:
    """Note whether the handler still lacks what a snapshot of the fleet's log has replaced."""
    if ending.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
        now = "json_remove(body, '$.incomplete_since')"
    elif ending.reason.startswith(SUPERSEDED_BY) or ending.reason == BEFORE_START:
        return
    else:
        now = "json_set(body, '$.incomplete_since', json_extract(body, '$.replaced'))"
    db.execute(
        f"UPDATE followed SET body = {now} WHERE handler = ? AND name = ?"  # noqa: S608 (a constant)
        " AND json_extract(body, '$.snapshot') = ? AND json_extract(body, '$.replaced') IS NOT NULL"
        " AND coalesce(json_extract(body, '$.incomplete_since'), 0) < ?",
        (ending.entry.handler, name, num, num),
    )


def ending_of(row: sqlite3.Row, outcome: Outcome, reason: str, now: float) -> Ending:
    """How the entry in this row ends, now."""
    return Ending(
        entry_of(row),
        outcome,
        reason,
        generation=row["generation"],
        paths=tuple(parsed(row["paths"])),
        duration=max(0.0, now - (row["started"] or now)),
        waited=max(0.0, now - row["received"]),
    )


def read_entry(db: sqlite3.Connection, handler: str, identity: str) -> Entry:
    """The handler's entry with this ID, which must exist."""
    row = db.execute("SELECT * FROM changes WHERE handler = ? AND id = ?", (handler, identity)).fetchone()
    return entry_of(row)


def add_again(db: sqlite3.Connection, row: sqlite3.Row, now: float) -> Entry:
    """Add the change in this row once more, for the same handler."""
    change = change_of(row)
    if isinstance(change, Event):
        change = change.again(now)  # its time to live starts over
    identity = free_id(db, row["handler"], row["id"])
    insert(db, row["handler"], identity, change, now)
    return read_entry(db, row["handler"], identity)

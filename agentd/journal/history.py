"""The history in the journal: listed, replayed, and deleted after a while.

Owns which payloads and rows are old enough to go; what goes because the journal is full is up to `limit`.
Every function may raise JournalError, if the file cannot be read or written.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from agentd.errors import JournalError
from agentd.journal.entry import RELAY, Entry
from agentd.journal.journal import NEWEST, Journal
from agentd.journal.numbers import tidy as tidy_numbers
from agentd.journal.rows import STATE, add_again, parsed
from agentd.watch.changes import Event

_FEWEST: Final = 10_000  # rows that are kept however old: an event may stay in Consul's ring for weeks
_SHORTEST: Final = 4  # characters to which an ID may be abbreviated
_COLUMNS: Final = (
    "seq, handler, id, kind, query, name, received, attempts, not_before, generation, outcome, reason, paths,"
    " started, finished"
)
# Whether the generation of an open entry is proved, and only waits to be verified.
_LIVE: Final = (
    "EXISTS (SELECT 1 FROM commits WHERE commits.generation = changes.generation AND commits.state = 'live')"
    " AS live"
)


def history(
    journal: Journal, *, limit: int = 50, handler: str | None = None, identity: str | None = None
) -> list[dict[str, Any]]:
    """What was received and how it ended, newest first, without payloads.

    Args:
        journal: the journal.
        limit: the most rows to return.
        handler: only the rows of this handler.
        identity: only the rows whose ID begins like this.
    """
    rows = journal.database.rows(
        f"SELECT {_COLUMNS}, {_LIVE} FROM changes WHERE (?1 IS NULL OR handler = ?1)"  # noqa: S608 (constants)
        " AND (?2 IS NULL OR substr(id, 1, length(?2)) = ?2) ORDER BY seq DESC LIMIT ?3",
        handler,
        identity,
        limit,
    )
    return [dict(row) | {"paths": parsed(row["paths"]), "live": bool(row["live"])} for row in rows]


def replay(journal: Journal, identity: str, handler: str | None = None) -> list[Entry]:
    """Add a change again for the handlers that had it.

    Args:
        journal: the journal.
        identity: its ID, or the beginning of it.
        handler: only for this handler; None for all.

    Raises:
        JournalError: there is no such change, or its payload has been wiped.
    """
    rows = replayable(journal, identity, handler)
    with journal.database.transaction() as db:
        return [add_again(db, row, journal.clock()) for row in rows]


def replayable(journal: Journal, identity: str, handler: str | None = None) -> list[sqlite3.Row]:
    """For each handler the row that `replay` would add again. Arguments and errors are the same."""
    rows = [
        row
        for row in _find(journal, identity)
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


def _find(journal: Journal, identity: str) -> list[sqlite3.Row]:
    """For each handler the newest row of the change with this ID, or whose ID begins like this.

    Raises:
        JournalError: the IDs of several changes begin like this.
    """
    rows = journal.database.rows("SELECT * FROM changes WHERE id = ? ORDER BY seq", identity)
    if not rows and len(identity) >= _SHORTEST:
        rows = journal.database.rows(
            "SELECT * FROM changes WHERE substr(id, 1, ?) = ? AND kind NOT IN ('notification', 'timer')"
            " ORDER BY seq",
            len(identity),
            identity,
        )
        if len({row["id"].partition("#")[0] for row in rows}) > 1:
            raise JournalError(f"several IDs begin with {identity!r}; give more characters")
    return list({row["handler"]: row for row in rows}.values())


def tidy(journal: Journal, *, keep: float, replayable: float) -> None:
    """Wipe payloads after `replayable` seconds and delete rows after `keep` seconds, but nothing pending.

    The newest state of each query keeps its payload. Rows of events that Consul still lists are kept; as long
    as Consul has not been asked since the start, the rows of all events are.
    """
    now, listed = journal.clock(), journal.listed
    with journal.database.transaction() as db:
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
            (now - keep, listed is not None, json.dumps(sorted(listed or ())), _FEWEST),
        )
        db.execute(
            "DELETE FROM commits WHERE state = 'done' AND at < ? AND seq < (SELECT max(seq) FROM commits)"
            " AND generation < (SELECT max(generation) FROM commits)",
            (now - keep,),
        )
        tidy_numbers(db)
    journal.database.owes_flush = not journal.database.flush(patience=0.1)  # everybody waits for that
    journal.database.forget_aside(now - replayable)

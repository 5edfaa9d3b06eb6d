"""The history in the journal: listed, replayed, and deleted after a while.

Owns which payloads and rows are old enough to go; what goes because the journal is full is up to `limit`.
Every function may raise JournalError, if the file cannot be read or written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from agentd.errors import JournalError
from agentd.journal.entry import RELAY, Entry
from agentd.journal.journal import NEWEST, Journal
from agentd.journal.numbers import tidy as tidy_numbers
from agentd.journal.rows import SAME_ID, STATE, add_again, parsed, same_id
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
_BEGINS: Final = "substr(id, 1, length(?1)) = ?1 AND (?2 = '' OR substr(id, -length(?2)) = ?2)"
_WANTED: Final = (
    f"{_BEGINS} AND (?3 IS NULL OR handler = ?3) AND (NOT ?4 OR outcome IN ('refused', 'failed'))"
    " AND (?5 IS NULL OR max(received, coalesce(finished, 0)) >= ?5)"
    " AND (?6 OR kind <> 'timer' OR outcome IS NOT 'unchanged')"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes are asked for.

    Attributes:
        handler: only those of this handler.
        identity: only those whose ID begins like this; of several with one ID, "3f2a#2" is the second.
        failed: only those that failed or were refused.
        since: only those that arrived or ended since then, unix time.
        idle: whether also timed work that changed nothing.
    """

    handler: str | None = None
    identity: str | None = None
    failed: bool = False
    since: float | None = None
    idle: bool = True

    @property
    def values(self) -> tuple[object, ...]:
        """For `_WANTED`."""
        return *_parts(self.identity or ""), self.handler, self.failed, self.since, self.idle


_ALL: Final = Wanted()


def history(journal: Journal, wanted: Wanted = _ALL, *, limit: int = 50) -> list[dict[str, Any]]:
    """What was received and how it ended, newest first, without payloads; at most `limit` rows."""
    rows = journal.database.rows(
        f"SELECT {_COLUMNS}, {_LIVE} FROM changes WHERE {_WANTED} ORDER BY seq DESC LIMIT ?7",  # noqa: S608 (constants)
        *wanted.values,
        limit,
    )
    return [_told(row) for row in rows]


def _told(row: sqlite3.Row | Mapping[str, Any]) -> dict[str, Any]:
    return dict(row) | {"paths": parsed(row["paths"]), "live": bool(row["live"])}


class Endings:
    """The changes that end from now on, also those that are open now."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._newest = int(journal.database.rows("SELECT coalesce(max(seq), 0) FROM changes")[0][0])
        self._open = {
            one[0] for one in journal.database.rows("SELECT seq FROM changes WHERE outcome IS NULL")
        }

    def new(self, wanted: Wanted) -> list[dict[str, Any]]:
        """What has ended since the last call, the first that ended first."""
        rows = self._journal.database.rows(
            f"SELECT {_COLUMNS}, {_LIVE}, ({_WANTED}) AS wanted FROM changes"  # noqa: S608 (constants)
            " WHERE seq > ?7 OR seq IN (SELECT value FROM json_each(?8)) ORDER BY finished, seq",
            *wanted.values,
            self._newest,
            json.dumps(sorted(self._open)),
        )
        self._open = {row["seq"] for row in rows if row["outcome"] is None}
        self._newest = max(self._newest, *(row["seq"] for row in rows), 0)
        ended = (dict(row) for row in rows if row["outcome"] is not None)
        return [_told(row) for row in ended if row.pop("wanted")]


class Movement(NamedTuple):
    """How `current` came to a generation.

    Attributes:
        at: when, unix time.
        handler: who committed it, or "rollback", "disproof", "adopted" or "start".
        parent: the generation that was current before.
    """

    at: float
    handler: str
    parent: int


def last_movement(journal: Journal, generation: int) -> Movement | None:
    """How a generation became current last; None if that is not remembered."""
    rows = journal.database.rows(
        "SELECT at, handler, parent FROM commits WHERE generation = ? ORDER BY seq DESC LIMIT 1", generation
    )
    return Movement(*rows[0]) if rows else None


def made_of(journal: Journal, generation: int) -> list[str]:
    """The IDs of the changes that a generation was made of, the oldest first."""
    rows = journal.database.rows(
        "SELECT id FROM changes WHERE generation = ? AND paths <> '[]' ORDER BY seq", generation
    )
    return list(dict.fromkeys(row["id"] for row in rows))


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
    found = _find(journal, identity)
    if not found:
        raise JournalError(f"there is no change {identity!r} in the journal; `agentd history` lists them")
    here = [row for row in found if row["handler"] != RELAY]
    if not here:
        raise JournalError(
            f"{identity!r} only went to the fleet's log: replay the message that it became there,"
            " which `agentd history` lists"
        )
    rows = [row for row in here if handler in (None, row["handler"])]
    if not rows:
        names = ", ".join(row["handler"] for row in here)
        raise JournalError(f"the handler {handler!r} had no change {identity!r}: it was for {names}")
    if wiped := [row for row in rows if row["body"] is None]:
        if wiped[0]["kind"] != Event.kind:
            raise JournalError(f"the payload of {identity!r} was wiped: a newer state has replaced it")
        raise JournalError(
            f"the payload of {identity!r} was wiped (by journal.replayable or journal.max_size, or with a"
            " key that was retired); fire it again"
        )
    return rows


def _parts(identity: str) -> tuple[str, str]:
    """How the ID begins, and how it ends: "#2" if it was added again."""
    begin, hashed, copy = identity.partition("#")
    return begin, f"{hashed}{copy}"


def _find(journal: Journal, identity: str) -> list[sqlite3.Row]:
    """For each handler the newest row of the change with this ID, or whose ID begins like this.

    Raises:
        JournalError: the IDs of several changes begin like this.
    """
    exactly, values = ("id = ?", (identity,)) if "#" in identity else (SAME_ID, same_id(identity))
    rows = journal.database.rows(f"SELECT * FROM changes WHERE {exactly} ORDER BY seq", *values)  # noqa: S608 (constants)
    if not rows and len(_parts(identity)[0]) >= _SHORTEST:
        rows = journal.database.rows(
            f"SELECT * FROM changes WHERE {_BEGINS} AND kind NOT IN ('notification', 'timer')"  # noqa: S608 (a constant)
            " ORDER BY seq",
            *_parts(identity),
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

"""Keeps the journal within its limit on the disk, whatever arrives: the oldest history goes first.

Payloads and rows of what has ended are dropped, the oldest first. If what is open is too much by itself, the
oldest of it ends: notifications, which the newest makes up for; events that wait for a proof; events that no
worker has seen. What a worker has in hand, the newest state of each query and the IDs of the events that
Consul still lists stay. Time is bounded as well: the next call does what is left.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from agentd.journal.entry import Ending, Outcome
from agentd.journal.journal import Journal
from agentd.journal.rows import COMMITTED, WAITS, close, ending_of

_ROOM: Final = 4 * 1024 * 1024
"""Bytes below the limit that stay free, at least: what is written is in the log as well, for a moment."""
_BEGIN: Final = 0.9  # of the limit, at most
_UNTIL: Final = 0.9  # of where it begins
_AT_ONCE: Final = 500
_ROW: Final = (
    500  # bytes of a row beside its payload, with its place in the indexes and what pages waste, about
)
_SECONDS: Final = 0.5
# As `journal.NEWEST`, but asked of a few rows it need not look at all.
_NEWEST: Final = (
    "kind <> 'event' AND NOT EXISTS (SELECT 1 FROM changes AS newer WHERE newer.handler = changes.handler"
    " AND newer.query = changes.query AND newer.seq > changes.seq)"
)
_FULL: Final = "the journal is full (journal.max_size)"


class _Sort(NamedTuple):
    """What may end to make room, how, and why."""

    which: str
    outcome: Outcome
    reason: str


_SORTS: Final = (
    _Sort(  # a worker looks only at the newest
        f"{WAITS} AND kind = 'notification' AND seq < (SELECT max(seq) FROM changes AS newer"  # noqa: S608 (a constant)
        " WHERE newer.handler = changes.handler AND newer.kind = 'notification' AND newer.outcome IS NULL)",
        Outcome.UNCHANGED,
        f"{_FULL}, and there is a newer one",
    ),
    _Sort(
        f"{COMMITTED} AND kind = 'event'",
        Outcome.EXPIRED,
        f"{_FULL}, and this waited longest: committed, but not proved to be live",
    ),
    _Sort(
        f"{WAITS} AND kind = 'event'",
        Outcome.EXPIRED,
        f"{_FULL}, and this waited longest: fire it again",
    ),
)


_Step: TypeAlias = "Callable[[Journal, Trimmed, int, int], int]"


@dataclass(slots=True)
class Trimmed:
    """What was dropped.

    Attributes:
        rows: entries that ended, whole.
        payloads: payloads of entries whose row stays.
        endings: what was open, and had to end.
        freed: bytes of `endings`, about: their rows go as history, at the next call.
        size: bytes on the disk now.
        most: the limit, None if there is none.
    """

    rows: int = 0
    payloads: int = 0
    endings: list[Ending] = field(default_factory=list)
    freed: int = 0
    size: int = 0
    most: int | None = None

    def __bool__(self) -> bool:
        """Whether anything was dropped."""
        return bool(self.rows or self.payloads or self.endings)

    @property
    def over(self) -> bool:
        """Whether the limit is exceeded even so."""
        return self.most is not None and self.size > self.most


def trim(journal: Journal) -> Trimmed:
    """Drop what is too much; cheap if nothing is.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    database, most = journal.database, journal.most
    done = Trimmed(size=database.size(), most=most)
    if most is None:
        return done
    begin = min(most * _BEGIN, most - _ROOM)
    if done.size <= begin:
        return done
    deadline = time.monotonic() + _SECONDS
    steps: list[_Step] = [_history]
    if (
        journal.listed is not None
    ):  # else hardly any history may go, and whatever is open would make up for it
        steps += [partial(_open, sort) for sort in _SORTS]
    for step in steps:
        after = 0
        while (
            much := database.used() - done.freed - round(begin * _UNTIL)
        ) > 0 and time.monotonic() < deadline:
            after = step(journal, done, after, much)
            if not after:
                break  # nothing more of this: what comes next has to go
        else:
            break  # whatever others have written since is for the next call
    if done:
        _forget_commits(journal)
    database.shrink()
    done.size = database.size()
    return done


def _some(journal: Journal, which: str, after: int, much: int) -> list[sqlite3.Row]:
    """The next entries after this one, with so many bytes of payload, or a few more."""
    rows = journal.database.rows(
        f"SELECT seq, handler, kind, id, length(body) AS size, {_NEWEST} AS newest FROM changes"  # noqa: S608 (constants of this module)
        f" WHERE {which} AND seq > ? ORDER BY seq LIMIT ?",
        after,
        _AT_ONCE,
    )
    for count, row in enumerate(rows, 1):
        much -= _ROW + (row["size"] or 0)
        if much <= 0:
            return rows[:count]
    return rows


def _history(journal: Journal, done: Trimmed, after: int, much: int) -> int:
    """Drop some of what has ended. Returns the last entry that was looked at, 0 at the end."""
    rows = _some(journal, "outcome IS NOT NULL", after, much)
    kept = [row for row in rows if row["newest"] or _is_listed(journal, row)]
    wiped = [row["seq"] for row in kept if row["size"] and row["kind"] == "event"]
    gone = {row["seq"] for row in rows} - {row["seq"] for row in kept}
    with journal.database.transaction() as db:
        db.executemany("UPDATE changes SET body = NULL WHERE seq = ?", ((one,) for one in wiped))
        db.executemany("DELETE FROM changes WHERE seq = ?", ((one,) for one in gone))
    done.rows += len(gone)
    done.payloads += len(wiped)
    return int(rows[-1]["seq"]) if rows else 0


def _is_listed(journal: Journal, row: sqlite3.Row) -> bool:
    """Whether Consul may show the event again, which is then known by this row."""
    return row["kind"] == "event" and (journal.listed is None or row["id"][:36] in journal.listed)


def _open(sort: _Sort, journal: Journal, done: Trimmed, after: int, much: int) -> int:
    """End some of what is open and is not in a worker's hands. Returns as `_history` does."""
    rows = _some(journal, sort.which, after, much)
    with journal.database.transaction() as db:
        for seq, size in ((row["seq"], row["size"]) for row in rows):
            row = db.execute(f"SELECT * FROM changes WHERE seq = ? AND {sort.which}", (seq,)).fetchone()  # noqa: S608 (a constant)
            if row and row["generation"] is None and seq <= journal.taken(row["handler"]):
                continue  # its worker has it
            ending = row and ending_of(row, sort.outcome, sort.reason, journal.clock())
            if ending and close(db, ending, journal.clock()):
                db.execute("UPDATE changes SET body = NULL WHERE seq = ?", (seq,))
                done.endings.append(ending)
                done.freed += _ROW + (size or 0)
    return int(rows[-1]["seq"]) if rows else 0


def _forget_commits(journal: Journal) -> None:
    """Forget the moves of `current` that are older than all history, but none that something still needs."""
    with journal.database.transaction() as db:
        db.execute(
            "DELETE FROM commits WHERE state = 'done' AND at < (SELECT min(received) FROM changes)"
            " AND generation < (SELECT max(generation) FROM commits)"
            " AND seq NOT IN (SELECT max(seq) FROM commits GROUP BY handler)"
            " AND seq < (SELECT max(seq) FROM commits)"
        )

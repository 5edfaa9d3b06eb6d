"""The numbers of the messages in force, by handler and name, for each generation.

A number is recorded in the transaction that commits its message, or ends it as applied or unchanged, and
belongs to the generation current at that time: it is in force only as long as that generation is, and is
proved together with it. The tree's manifest has a copy (`Committer`), in case the journal is lost.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentd.journal.database import Database
from agentd.journal.entry import BEFORE_START, SUPERSEDED_BY

ByName: TypeAlias = dict[str, int]
"""Message numbers, by name."""

_KEPT: Final = 16  # generations for which the numbers of a name are kept
_CURRENT: Final = "coalesce((SELECT generation FROM commits ORDER BY seq DESC LIMIT 1), 0)"
# The last arrival of each name in the generations below a limit; after a roll-back there may be two, of which
# the one of the later generation counts. Values: handler, limit.
_NEWEST: Final = """
SELECT name, num FROM (
    SELECT name, num, row_number() OVER (PARTITION BY name ORDER BY seq DESC, generation DESC) AS place
    FROM numbers WHERE handler = ? AND generation < ?
) WHERE place = 1
"""
# The first commit of a handler's files that is not yet proved and verified.
_OPEN: Final = (
    "SELECT min(generation) AS first FROM commits WHERE state <> 'done' AND handler IN (?, 'start')"
)
_UNLESS_OLDER: Final = (
    "ON CONFLICT DO UPDATE SET num = excluded.num, seq = excluded.seq WHERE excluded.seq > seq"
)
# Messages that wait although later ones are in force: they were set aside until a download has finished.
_OVERTAKEN: Final = """
SELECT substr(query, 5) AS name, min(CAST(idx AS INTEGER)) AS num, (
    SELECT max(CAST(idx AS INTEGER)) FROM changes AS before WHERE before.handler = waiting.handler
    AND before.query = waiting.query AND before.outcome IN ('applied', 'unchanged')
    AND before.seq < waiting.seq
) AS before FROM changes AS waiting
WHERE handler = ? AND outcome IS NULL AND query LIKE 'log:%' GROUP BY query
"""
_NO_LIMIT: Final = 1 << 62
# The last message of a name that was attempted. The index of a message is its number.
_TRIED: Final = """
SELECT CAST(idx AS INTEGER) AS num, outcome, reason, generation FROM changes WHERE handler = ? AND query = ?
AND (outcome IS NOT NULL OR generation IS NOT NULL OR attempts > 0 OR started IS NOT NULL OR reason <> '')
ORDER BY seq DESC LIMIT 1
"""
_RECENT: Final = 200  # newest entries of a name, among which failed messages are searched
_MOST_FAILED: Final = 8
# The failed ones among them. Messages that succeeded later, or that a later one replaced, do not count.
_FAILED: Final = """
WITH recent AS (SELECT seq, idx, outcome, reason FROM changes WHERE handler = ? AND query = ?
    AND outcome IS NOT NULL ORDER BY seq DESC LIMIT ?)
SELECT CAST(idx AS INTEGER) AS num, outcome, reason, max(seq) AS seq FROM recent AS bad
WHERE outcome IN ('refused', 'failed', 'expired') AND reason NOT LIKE ? AND reason <> ?
AND NOT EXISTS (SELECT 1 FROM recent AS good WHERE good.idx = bad.idx AND good.seq > bad.seq)
GROUP BY idx ORDER BY seq DESC LIMIT ?
"""
_ENDED: Final = """
SELECT outcome, finished FROM changes WHERE +handler = ? AND outcome IS NOT NULL AND kind <> 'timer'
AND seq > (SELECT max(seq) FROM changes) - 10000 ORDER BY seq DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Attempted:
    """A message that a handler has attempted.

    Attributes:
        num: its number.
        outcome: how it ended; "" while it has not.
        reason: why it ended so, or has not ended yet; may be "".
    """

    num: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How the last change of a handler ended, and when (unix time)."""

    outcome: str
    at: float


class Numbers:
    """The numbers in a journal, read-only.

    Raises:
        JournalError: from every method, if the file cannot be read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def committed(self, handler: str) -> ByName:
        """The numbers that the handler has committed, proved or not."""
        return self._below(handler, _NO_LIMIT)

    def live(self, handler: str) -> ByName:
        """The numbers that are in force: committed, proved, and verified if the handler verifies.

        Every message before one of these has ended.
        """
        first = self._database.rows(_OPEN, handler)[0]["first"]
        found = self._below(handler, _NO_LIMIT if first is None else first)
        for row in self._database.rows(_OVERTAKEN, handler):
            if found.get(row["name"], 0) > row["num"]:
                del found[row["name"]]
                if row["before"] is not None:
                    found[row["name"]] = row["before"]
        return found

    def rolling_back(self, provers: Iterable[str]) -> bool:
        """Whether a roll-back is not yet proved by any of the provers."""
        return bool(
            self._database.rows(
                "SELECT 1 FROM changes WHERE handler IN (SELECT value FROM json_each(?)) AND outcome IS NULL"
                " AND kind = 'notification' AND json_extract(body, '$.rollback')",
                json.dumps(list(provers)),
            )
        )

    def attempted(self, handler: str, query: str) -> Attempted | None:
        """The newest attempted message of this query; None if there is none."""
        rows = self._database.rows(_TRIED, handler, query)
        return Attempted(rows[0]["num"], rows[0]["outcome"] or "", rows[0]["reason"]) if rows else None

    def failed(self, handler: str, query: str) -> list[Attempted]:
        """The latest messages of this query that failed, newest first, at most 8."""
        values = (handler, query, _RECENT, f"{SUPERSEDED_BY}%", BEFORE_START, _MOST_FAILED)
        rows = self._database.rows(_FAILED, *values)
        return [Attempted(row["num"], row["outcome"], row["reason"]) for row in rows]

    def ended(self, handler: str) -> Ended | None:
        """The last change that ended, except timed work; None if the recent history has none."""
        rows = self._database.rows(_ENDED, handler)
        return Ended(rows[0]["outcome"], rows[0]["finished"]) if rows else None

    def with_batch(self, handler: str, seqs: Iterable[int]) -> dict[str, ByName]:
        """The committed numbers by handler, as they will be once `handler` has committed these entries."""
        handlers = self._database.rows("SELECT DISTINCT handler FROM numbers")
        found = {row["handler"]: self.committed(row["handler"]) for row in handlers}
        rows = self._database.rows(
            "SELECT substr(query, 5) AS name, CAST(idx AS INTEGER) AS num, max(seq) FROM changes"
            " WHERE seq IN (SELECT value FROM json_each(?)) AND query LIKE 'log:%' GROUP BY query",
            json.dumps(list(seqs)),
        )
        for row in rows:
            found.setdefault(handler, {})[row["name"]] = row["num"]
        return found

    def _below(self, handler: str, limit: int) -> ByName:
        return {row["name"]: row["num"] for row in self._database.rows(_NEWEST, handler, limit)}


def note(db: sqlite3.Connection, seqs: Iterable[int], generation: int | None = None) -> None:
    """Record that the messages among these entries are in force, with this generation or the current one.

    Of each name, the last arrival counts, even if it has a lower number, as after a replay.
    """
    db.execute(
        "INSERT INTO numbers (handler, name, generation, num, seq)"  # noqa: S608 (constants)
        f" SELECT handler, substr(query, 5), coalesce(?2, {_CURRENT}), CAST(idx AS INTEGER), max(seq)"
        " FROM changes WHERE seq IN (SELECT value FROM json_each(?1)) AND query LIKE 'log:%'"
        f" GROUP BY handler, query {_UNLESS_OLDER}",
        (json.dumps(list(seqs)), generation),
    )


def move_back(db: sqlite3.Connection, to: int, told: Mapping[str, Mapping[str, int]]) -> None:
    """Record a roll-back to generation `to`, whose manifest has the numbers `told`, by handler.

    Later numbers stay in force for handlers that have committed nothing since `to`.
    """
    # What arrived before and still waits counts once it is in force: so no later than what was in force.
    arrived = {
        (handler, name): seq
        for handler, name, seq in db.execute(
            "SELECT handler, name, max(seq) FROM numbers GROUP BY handler, name"
        )
    }
    db.execute(
        "INSERT INTO numbers (handler, name, generation, num, seq)"  # noqa: S608 (constants)
        " SELECT handler, name, ?1, num, max(seq) FROM numbers WHERE generation > ?1"
        " AND NOT EXISTS (SELECT 1 FROM commits WHERE generation > ?1"
        f" AND commits.handler IN (numbers.handler, 'start')) GROUP BY handler, name {_UNLESS_OLDER}",
        (to,),
    )
    db.execute("DELETE FROM numbers WHERE generation > ?", (to,))
    db.executemany(
        "INSERT INTO numbers (handler, name, generation, num, seq) SELECT ?1, ?2, ?3, ?4, ?5"
        " WHERE NOT EXISTS (SELECT 1 FROM numbers WHERE handler = ?1 AND name = ?2 AND num >= ?4)"
        " ON CONFLICT DO UPDATE SET num = excluded.num, seq = excluded.seq",
        [
            (handler, name, to, num, arrived.get((handler, name), 0))
            for handler, names in told.items()
            for name, num in names.items()
        ],
    )


def tidy(db: sqlite3.Connection) -> None:
    """Delete the numbers of all but the newest generations of each name."""
    db.execute(
        "DELETE FROM numbers WHERE (SELECT count(*) FROM numbers AS newer"
        " WHERE newer.handler = numbers.handler AND newer.name = numbers.name"
        " AND newer.generation > numbers.generation) >= ?",
        (_KEPT,),
    )

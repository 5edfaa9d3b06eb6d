"""What the journal knows of each handler's condition, for `agentd status` and the daemon's /status.

It only reads, so that a command can ask while the daemon is down.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from agentd.journal.drift import Drifts
from agentd.journal.journal import Journal
from agentd.journal.rows import STATE

# A commit is rolled back if `current` went backwards past it later; few rows of the table did.
_LIVE = """
SELECT handler, max(generation) AS live FROM commits AS made
WHERE state = 'done' AND (
    generation = (SELECT generation FROM commits ORDER BY seq DESC LIMIT 1)
    OR NOT EXISTS (
        SELECT 1 FROM commits WHERE generation < parent AND seq > made.seq AND generation < made.generation
    )
) GROUP BY handler
"""
_WAITING = """
SELECT handler, count(*) AS waiting, min(received) AS since FROM changes
WHERE outcome IS NULL GROUP BY handler
"""
_REASON = """
SELECT handler, reason FROM changes WHERE seq IN (
    SELECT min(seq) FROM changes WHERE outcome IS NULL AND reason <> '' GROUP BY handler
)
"""
# Neither timed work nor another query's state makes up for a change; for timed work, anything does; for an
# event, a message of its name in the fleet's log as well.
_FAILURE = """
SELECT seq, handler, query, kind, id, received, outcome, reason, finished, EXISTS (
    SELECT 1 FROM changes AS later WHERE later.handler = changes.handler
    AND (later.query IN (changes.query, 'log:' || changes.name) OR changes.kind = 'timer')
    AND later.outcome IN ('applied', 'unchanged')
    AND (later.finished, later.seq) > (changes.finished, changes.seq)
) AS recovered, CASE WHEN kind NOT IN ('event', 'notification', 'timer') THEN (
    SELECT min(finished) FROM changes AS first WHERE first.handler = changes.handler
    AND first.query = changes.query AND first.outcome IN ('refused', 'failed') AND first.finished > (
        SELECT coalesce(max(finished), 0) FROM changes AS good WHERE good.handler = changes.handler
        AND good.query = changes.query AND good.outcome IN ('applied', 'unchanged')
    )
) END AS since FROM changes WHERE seq IN (
    SELECT max(seq) FROM changes WHERE outcome IN ('refused', 'failed') GROUP BY handler, query
) ORDER BY recovered DESC, seq
"""


# Newest states that were applied, and then undone by an operator's rollback: nothing tries them again.
_UNDONE = f"""
SELECT handler, query, kind, id FROM changes WHERE outcome = 'applied' AND generation IS NOT NULL AND seq IN (
    SELECT max(seq) FROM changes WHERE {STATE} GROUP BY handler, query
) AND generation > (
    SELECT generation FROM commits WHERE handler = 'rollback' AND state = 'done' AND at >= changes.received
    ORDER BY seq DESC LIMIT 1
)
"""  # noqa: S608 (a constant)

_PASSING: Final = frozenset({"event", "notification", "timer"})


def summary(
    journal: Journal, names: Collection[str], queries: Mapping[str, Collection[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """The condition of each handler in `names`, of JSON's types.

    Args:
        journal: what is read.
        names: of the handlers.
        queries: by handler, the queries whose states still matter; None for all.

    Returns:
        By name: `live` (the newest generation that the handler made and that was proved live and not rolled
        back, or None), `waiting` (how many changes have no outcome yet), `waiting_since` (when the oldest of
        them arrived, unix time, or None), `waiting_reason` (why it waits, "" if it is only its turn),
        `last_failure` (`change`, `outcome`, `reason` and `at`, unix time, of the last change that was refused
        or failed, and `recovered`, whether a later one of the same query ended well; or None), `drift` (each
        `part`, `reason` and `since`, unix time, of what does not hold outside the tree), `undone` (`query`
        and `change` of each newest state that an operator rolled back), `behind` (`since`,
        unix time, and `reason`, if what the handler stands for is not in force; or None), `gauges` and
        `status` (what the handler publishes of itself, see `Context.store`).

    Raises:
        JournalError: the journal cannot be read.
    """
    live, waiting, reason = (
        {row["handler"]: row for row in journal.database.rows(sql)} for sql in (_LIVE, _WAITING, _REASON)
    )
    failure = {
        row["handler"]: row for row in journal.database.rows(_FAILURE) if _matters(row, queries)
    }  # the last one counts: the newest of those that nothing made up for
    undone: dict[str, list[dict[str, str]]] = {}
    for row in journal.database.rows(_UNDONE):
        if _matters(row, queries):
            undone.setdefault(row["handler"], []).append({"query": row["query"], "change": row["id"]})
    stores = journal.stores()
    drift: dict[str, list[dict[str, Any]]] = {}
    for one in Drifts(journal).standing():
        drift.setdefault(one.handler, []).append({"part": one.part, "reason": one.reason, "since": one.since})
    return {
        name: {
            "live": live[name]["live"] if name in live else None,
            "waiting": waiting[name]["waiting"] if name in waiting else 0,
            "waiting_since": waiting[name]["since"] if name in waiting else None,
            "waiting_reason": reason[name]["reason"] if name in reason else "",
            "last_failure": _failure(failure.get(name)),
            "drift": drift.get(name, []),
            "undone": undone.get(name, []),
            "behind": _behind(drift.get(name, []), failure.get(name), waiting.get(name), reason.get(name)),
            "gauges": stores.get(name, {}).get("gauges", {}),
            "status": stores.get(name, {}).get("status", []),
        }
        for name in names
    }


def _matters(row: sqlite3.Row, queries: Mapping[str, Collection[str]] | None) -> bool:
    """Whether the handler still takes what comes from there."""
    if queries is None or row["kind"] in ("timer", "notification"):
        return True
    return row["query"] in queries.get(row["handler"], ())


def _behind(
    drift: Sequence[Mapping[str, Any]],
    failure: sqlite3.Row | None,
    waiting: sqlite3.Row | None,
    reason: sqlite3.Row | None,
) -> dict[str, Any] | None:
    """Since when and why what a handler stands for is not in force; None if it is, as far as is known.

    An event that was refused or failed leaves nothing behind: what was in force stays in force.
    """
    found: list[tuple[float, str]] = [
        (one["since"], f"not in effect: {one['part']}: {one['reason']}") for one in drift
    ]
    if failure and not failure["recovered"] and failure["kind"] not in _PASSING:
        since = failure["since"] or failure["finished"]  # each retry failed anew
        found.append((since, f"{failure['query']} {failure['outcome']}: {failure['reason']}"))
    if waiting and reason:
        found.append((waiting["since"], reason["reason"]))
    if not found:
        return None
    since, text = min(found)
    return {"since": since, "reason": text}


def _failure(row: sqlite3.Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "change": row["id"],
        "outcome": row["outcome"],
        "reason": row["reason"],
        "at": row["finished"],
        "recovered": bool(row["recovered"]),
    }

"""The newest states that a handler did not apply: what convergence has to try again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentd.journal.entry import Outcome
from agentd.journal.journal import Journal

# That an operator rolled back to an earlier generation is recorded as a commit of its own.
_NEWEST: Final = """
SELECT seq, outcome, attempts, reason, received, started, finished, body IS NOT NULL AS whole, EXISTS (
    SELECT 1 FROM commits AS back WHERE back.handler = 'rollback' AND back.generation < newest.generation
    AND back.at >= newest.received
) AS undone FROM (
    SELECT * FROM changes WHERE handler = ? AND query = ? ORDER BY seq DESC LIMIT 1
) AS newest
"""
_IN_FORCE: Final = frozenset({Outcome.APPLIED, Outcome.UNCHANGED})
_LAPSED: Final = frozenset({Outcome.FAILED, Outcome.REFUSED, Outcome.EXPIRED})


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The newest state of one query, which ended without being applied.

    Attributes:
        seq: of its entry.
        query: whose state it is.
        outcome: how it ended.
        attempts: failed attempts so far.
        reason: why.
        received: unix time of arrival.
        started: unix time at which its last attempt began.
        finished: unix time of its end.
    """

    seq: int
    query: str
    outcome: Outcome
    attempts: int
    reason: str
    received: float
    started: float
    finished: float


def lapsed(journal: Journal, handler: str, queries: Iterable[str]) -> list[Lapsed]:
    """The newest states of these queries that failed, were refused or expired, and that nobody undid.

    Raises:
        JournalError: the journal cannot be read.
    """
    rows = [(query, row) for query in queries for row in journal.database.rows(_NEWEST, handler, query)]
    return [
        Lapsed(
            row["seq"],
            query,
            Outcome(row["outcome"]),
            row["attempts"],
            row["reason"],
            row["received"],
            row["started"] or row["finished"],
            row["finished"],
        )
        for query, row in rows
        if row["outcome"] in _LAPSED and row["whole"] and not row["undone"]
    ]


def in_force_since(journal: Journal, handler: str, queries: Iterable[str], since: float) -> bool:
    """Whether the newest state of one of these queries was applied, or found so, after `since` (unix time).

    Raises:
        JournalError: the journal cannot be read.
    """
    rows = (row for query in queries for row in journal.database.rows(_NEWEST, handler, query))
    return any(row["outcome"] in _IN_FORCE and row["finished"] > since for row in rows)


def newest(journal: Journal) -> int:
    """The number of the newest entry in the journal, 0 if there is none."""
    return int(journal.database.rows("SELECT coalesce(max(seq), 0) AS seq FROM changes")[0]["seq"])

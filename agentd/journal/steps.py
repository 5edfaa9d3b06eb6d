"""The steps of a rollout that a handler was given: which of them it still has to handle.

All steps of a rollout bring the same, so a handler that runs only once per event handles one of them. Owns
what becomes of the others, when they arrive and when it is their turn. Decides only: who asks ends them.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from agentd.journal.database import Database
from agentd.journal.entry import BEFORE_START, SUPERSEDED_BY, Entry, Outcome
from agentd.journal.numbers import Numbers
from agentd.watch.changes import Event

BEGUN: Final = ", after it was begun"
"""The end of the reason for a step that was superseded, but may have done something before."""
_RAN: Final = "what it brings has already run here, and this handler runs only once per event"
_RAN_BADLY: Final = (
    "it ended badly at an earlier step of its rollout, and this handler runs only once per event: see"
    " `agentd history`; `agentd replay` runs it again here"
)
_TAKEN_BACK: Final = (
    "it ran at an earlier step of its rollout and is not in force any more, perhaps since it was rolled back,"
    " and this handler runs only once per event: `agentd replay` runs it again here"
)
_STEPS: Final = (
    "SELECT CAST(idx AS INTEGER) AS num, outcome, reason FROM changes WHERE handler = ? AND query = ?"
    " AND seq < ? AND reason <> ? AND json_extract(body, '$.Message.rollout') = ? ORDER BY seq"
)


class Settled(NamedTuple):
    """How a message ends that the handler is not to run."""

    outcome: Outcome
    reason: str

    @property
    def counts(self) -> bool:
        """Whether what it brings is in force."""
        return self.outcome == Outcome.UNCHANGED


class Steps:
    """Reads the journal.

    Raises:
        JournalError: from every method, if the file cannot be read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def at_arrival(
        self, db: sqlite3.Connection, handler: str, message: Event, first: int, joined: float
    ) -> Settled | None:
        """How a message ends if what it brings has run since number `first`; None if it is queued.

        Args:
            db: the transaction.
            handler: its name.
            message: of a rollout.
            first: the number of the first step that the handler was given, or what an abort brings back.
            joined: unix time at which the handler first followed the name.
        """
        if self._is_committed(handler, message.name, first):
            return Settled(Outcome.UNCHANGED, _RAN)
        if message.message and message.message.restores:
            return Settled(Outcome.EXPIRED, BEFORE_START) if first < joined * 1000 else None
        found = db.execute(
            "SELECT outcome, reason FROM changes WHERE handler = ? AND query = ? AND CAST(idx AS INTEGER) = ?"
            " ORDER BY seq DESC",
            (handler, message.query, first),
        ).fetchone()
        if found is None or found["reason"] == BEFORE_START:  # lost with the journal: nobody knows
            return Settled(Outcome.EXPIRED, BEFORE_START)
        return _after(found["outcome"])

    def at_turn(self, entry: Entry) -> Settled | None:
        """How a waiting message ends, now that those before it have ended; None if it is to run."""
        change = entry.change
        if not isinstance(change, Event) or change.message is None:
            return None
        message = change.message
        if not message.rollout or message.replayed:
            return None
        values = (entry.handler, change.query, entry.seq, BEFORE_START, message.rollout)
        steps = self._database.rows(_STEPS, *values)
        if not steps:
            return None
        if message.restores:
            is_old = self._is_committed(entry.handler, change.name, message.restores)
            never_ran = all(_never_ran(one["reason"]) for one in steps)
            return Settled(Outcome.UNCHANGED, _RAN) if is_old and never_ran else None
        if self._is_committed(entry.handler, change.name, steps[0]["num"]):
            return Settled(Outcome.UNCHANGED, _RAN)
        return _after(steps[-1]["outcome"])

    def begun(self, seqs: list[int]) -> set[int]:
        """Those of these entries that the handler may have begun with."""
        marks = ",".join("?" * len(seqs))
        rows = self._database.rows(
            f"SELECT seq FROM changes WHERE seq IN ({marks}) AND (started IS NOT NULL OR attempts > 0)",  # noqa: S608 (marks)
            *seqs,
        )
        return {row["seq"] for row in rows}

    def _is_committed(self, handler: str, name: str, num: int) -> bool:
        return Numbers(self._database).committed(handler).get(name, 0) >= num


def _after(outcome: str | None) -> Settled | None:
    """How a step ends after an earlier one, not in force, ended like this; None: that waits, so it waits."""
    if outcome is None:
        return None
    if outcome in (Outcome.REFUSED, Outcome.FAILED, Outcome.EXPIRED):
        return Settled(Outcome.REFUSED, _RAN_BADLY)
    return Settled(Outcome.REFUSED, _TAKEN_BACK)


def _never_ran(reason: str) -> bool:
    return reason.startswith(SUPERSEDED_BY) and not reason.endswith(BEGUN)

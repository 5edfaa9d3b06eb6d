"""What does not hold outside the tree, by handler: found by `Handler.verify`, kept until it holds again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agentd.journal.journal import Journal
from agentd.verdict import Drift


@dataclass(frozen=True, slots=True)
class Standing:
    """One drift that still stands.

    Attributes:
        handler: who found it.
        part: what it is about.
        reason: what was found, and what to do about it.
        since: unix time at which it was found first.
    """

    handler: str
    part: str
    reason: str
    since: float


class Drifts:
    """The drift in a journal. Every method is one transaction.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database
        self._clock = journal.clock

    def standing(self) -> list[Standing]:
        """All of it, by handler."""
        rows = self._database.rows(
            "SELECT handler, part, reason, since FROM drift ORDER BY handler, since, part"
        )
        return [Standing(**dict(row)) for row in rows]

    def record(self, handler: str, found: Sequence[Drift]) -> tuple[list[Drift], list[Drift]]:
        """Replace what is known of the handler's drift. Nothing is written if nothing changed.

        Returns:
            What is new or has another reason, and what is gone.
        """
        rows = self._database.rows("SELECT part, reason, since FROM drift WHERE handler = ?", handler)
        known = {row["part"]: row for row in rows}
        now = {one.part: one for one in found}
        new = [
            one for one in now.values() if one.part not in known or known[one.part]["reason"] != one.reason
        ]
        gone = [Drift(row["part"], row["reason"]) for part, row in known.items() if part not in now]
        if new or gone:
            with self._database.transaction() as db:
                db.execute("DELETE FROM drift WHERE handler = ?", (handler,))
                db.executemany(
                    "INSERT INTO drift (handler, part, reason, since) VALUES (?, ?, ?, ?)",
                    [
                        (
                            handler,
                            one.part,
                            one.reason,
                            known[one.part]["since"] if one.part in known else self._clock(),
                        )
                        for one in now.values()
                    ],
                )
        return new, gone

    def keep_only(self, handlers: Collection[str]) -> None:
        """Forget the drift of handlers that are no longer configured."""
        for handler in {one.handler for one in self.standing()} - set(handlers):
            self.record(handler, ())

"""Notifications: the newest stands for all that wait, and a handler that proves ends what waited for it.

`current` keeps still while it proves. A proof that fails flips the tree back; a reload that cannot be proved
with nothing to go back to stays owed, and is tried again for ever. Those whom a handler that proves names in
its own `notify` are told after each proof that succeeds: what they did to the old workers is gone with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentd.apply.attempt import Batch
from agentd.apply.desk import Desk
from agentd.apply.handling import Handling
from agentd.apply.outcome import Entry, Outcome
from agentd.errors import PermanentError, TemporaryError
from agentd.watch.changes import Notification


class Proving:
    """Handles notifications of one handler."""

    def __init__(self, desk: Desk, handling: Handling) -> None:
        self._desk = desk
        self._handling = handling
        self._committer = desk.committer

    def take(self, told: Sequence[Entry]) -> None:
        """Handle the newest; those before it are merged into it."""
        if self._desk.handler.proves:
            with self._committer.still(self._desk.beat):
                self._prove(told)
            return
        self._end_merged(told, Outcome.UNCHANGED)
        self._handling.take(told[-1:])

    def _prove(self, told: Sequence[Entry]) -> None:
        newest, batch = told[-1], self._desk.batch()
        try:
            self._desk.attempt(batch, newest)
        except PermanentError as error:
            self._tell("failed", batch)
            self._disprove(told, error, batch)
        except TemporaryError as error:
            self._desk.retry(newest, error, batch, owed=True)
        else:
            self._tell("proved", batch)
            self._committer.prove(batch.generation)
            self._pass_on(newest, batch.generation)
            self._end_merged(told, Outcome.APPLIED)
            self._desk.end([newest], Outcome.APPLIED, batch=batch)

    def _pass_on(self, newest: Entry, generation: int) -> None:
        """Owed before the proof's own entry ends, so that a kill in between repeats it and drops nothing."""
        raw = {"id": f"proved-{generation}", "generation": generation, "by": self._desk.name, "paths": []}
        raw["rollback"] = isinstance(newest.change, Notification) and newest.change.rollback
        for name in self._desk.entry.notify:
            self._desk.journal.owe(name, Notification("notify", raw))
        self._committer.told(self._desk.entry.notify)

    def _disprove(self, told: Sequence[Entry], error: PermanentError, batch: Batch) -> None:
        newest = told[-1]
        rolled_back = isinstance(newest.change, Notification) and newest.change.rollback
        back = None if rolled_back else self._committer.disprove(str(error), self._desk.provers)
        if back is None:
            self._desk.retry(newest, TemporaryError(str(error)), batch, owed=True)
            return
        self._desk.log.error(
            "generation.rolled_back", generation=batch.generation, to=back, reason=str(error)
        )
        self._end_merged(told, Outcome.FAILED)
        self._desk.end([newest], Outcome.FAILED, str(error), batch)

    def _end_merged(self, told: Sequence[Entry], outcome: Outcome) -> None:
        if len(told) > 1:
            self._committer.observer.reloads_merged(len(told) - 1)
            self._desk.end(told[:-1], outcome, f"merged into {told[-1].id}")

    def _tell(self, result: str, batch: Batch) -> None:
        self._committer.observer.reloaded(result, max(0.0, self._desk.clock() - batch.started))

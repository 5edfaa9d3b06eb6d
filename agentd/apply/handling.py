"""Changes in the order of arrival, as many as wait, into one commit.

A change that fails for now holds back those behind it, since their order may matter; one that is refused
does not. A batch that nginx does not accept goes one by one, so that only the bad change is refused. What
waits for a commit that cannot be made (nginx's configuration broken by somebody else, disk full) waits
without counting attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentd.apply.attempt import Batch, Kept
from agentd.apply.call import LeftBehind
from agentd.apply.desk import Desk
from agentd.apply.ledger import Overtaken
from agentd.apply.outcome import Entry, Outcome
from agentd.backoff import Backoff
from agentd.errors import AgentdError, PermanentError, TemporaryError, TreeError

_BLOCKED: Final = Backoff(1.0, 10.0)


class Handling:
    """Handles changes of one handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._blocked = 0

    def take(self, entries: Sequence[Entry]) -> bool:
        """Handle entries into one commit. Returns whether those behind them may go on."""
        batch, go_on = self._desk.batch(), True
        for entry in entries:
            try:
                go_on = self._handle(batch, entry)
            except LeftBehind as error:
                # Its thread may still write into the batch, so nothing of the batch is committed.
                self._desk.retry(entry, error, batch)
                return False
            if not go_on or self._desk.stop.is_set():
                break
        return self.commit(batch) and go_on

    def _handle(self, batch: Batch, entry: Entry) -> bool:
        """One change. Returns whether those behind it may go on."""
        try:
            self._desk.attempt(batch, entry)
        except PermanentError as error:
            batch.refuse(entry, str(error))
        except LeftBehind:
            raise
        except TemporaryError as error:
            batch.drop()
            return not self._desk.retry(entry, error, batch)
        except TreeError as error:
            batch.drop()
            self._wait([entry], error)
            return False
        return True

    # ------------------------------------------------------------------ the commit

    def commit(self, batch: Batch) -> bool:
        """Commit what the batch holds. Returns whether those behind it may go on."""
        if batch.clean:
            self._end(batch)
            return True
        try:
            self._desk.commit(batch)
        except Overtaken as error:
            self._desk.log.info("handler.overtaken", reason=str(error))
            return False
        except PermanentError as error:
            return self._blame(batch, error)
        except (TemporaryError, TreeError) as error:
            self._wait([kept.entry for kept in batch.kept], error)
            return False
        self._blocked = 0
        return True

    def _end(self, batch: Batch) -> None:
        """Nothing differs: the journal alone is told."""
        for kept in batch.kept:
            self._desk.end([kept.entry], _idle_outcome(kept), kept.refused or "", batch)

    def _blame(self, batch: Batch, error: PermanentError) -> bool:
        """Find the change that the check does not accept."""
        if len(batch.kept) == 1:
            self._desk.end([batch.kept[0].entry], Outcome.REFUSED, str(error), batch)
            return True
        return all(not self._desk.stop.is_set() and self.take([kept.entry]) for kept in batch.kept)

    def _wait(self, entries: Sequence[Entry], error: AgentdError) -> None:
        self._blocked += 1
        wait = _BLOCKED.delay(self._blocked)
        self._desk.journal.defer(
            [entry.seq for entry in entries], f"waits: {error}", self._desk.clock() + wait, failed=False
        )
        self._desk.log.warning(
            "handler.waiting", changes=len(entries), retry_in=round(wait, 1), reason=str(error)
        )


def _idle_outcome(kept: Kept) -> Outcome:
    if kept.refused is not None:
        return Outcome.REFUSED
    return Outcome.APPLIED if kept.ran else Outcome.UNCHANGED

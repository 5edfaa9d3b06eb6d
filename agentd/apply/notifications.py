"""Notifications: the newest replaces all waiting ones; a handler that proves ends what waited for its proof.

`current` does not move during a proof. If the proof fails, the tree is flipped back; if there is nothing to
flip back to, the reload stays pending and is retried until it succeeds. The handlers that a proving handler
names in its own `notify` are notified after each proof: what they did to the old workers is gone. Before it,
they look: what an operator did there a moment ago must be committed by then. With `drift: report` a damaged
tree is not restored for a notification, which waits: nginx must not read what nobody committed.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentd.apply.attempts import Attempt, Attempts, Pause
from agentd.errors import PermanentError, TemporaryError
from agentd.journal.entry import Entry, Outcome
from agentd.watch.changes import Notification


class Notifications:
    """The notifications of one handler."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._committer = attempts.committer
        self._proves = attempts.handler.proves
        self._waits = ""  # why the last proof was not had, if it was not

    def take(self, waiting: Sequence[Entry], now: float) -> Pause | None:
        """Handle the newest at `now` (unix seconds), unless it must wait; earlier ones are merged into it.

        Returns:
            How long it must wait; None if it was handled.
        """
        newest = waiting[-1]
        if newest.not_before > now:
            return Pause(newest.not_before - now)
        attempt = self._attempts.begin(mend=False)
        if not _is_rollback(newest) and (pause := attempt.hold(now)):  # nothing may join a rollback
            return pause
        if not self._proves:
            self._end_merged(waiting, Outcome.UNCHANGED)
            self._attempts.take([newest], attempt)
            return None
        with self._committer.pinned(self._attempts.beat, self._attempts.settle_told):
            self._prove(waiting, self._attempts.begin(mend=False))
        return None

    def _prove(self, waiting: Sequence[Entry], attempt: Attempt) -> None:
        newest, generation = waiting[-1], attempt.batch.generation
        try:
            unproved = attempt.call(newest)
        except PermanentError as error:
            self._count("failed", attempt)
            self._disprove(waiting, error, attempt)
        except TemporaryError as error:
            self._count("waiting", attempt)
            self._committer.commits.not_live(generation, str(error))
            attempt.retry(newest, error, forever=True, known=str(error) == self._waits)
            if len(waiting) > 1:  # what is merged into it waits for the same
                merged = [entry.seq for entry in waiting[:-1]]
                self._attempts.journal.defer(merged, str(error), 0.0, failed=False)
            self._waits = str(error)
        else:
            self._waits = ""
            self._count("skipped" if unproved else "proved", attempt)
            reason = f"committed; {unproved}" if unproved else ""
            self._committer.prove(generation, skipped=reason)
            self._pass_on(newest, generation)
            self._end_merged(waiting, Outcome.APPLIED)
            attempt.end([newest], Outcome.APPLIED, reason)

    def _pass_on(self, newest: Entry, generation: int) -> None:
        """Queued before the proof's own entry ends: a kill in between repeats it, and loses nothing."""
        attempts = self._attempts
        raw = {"id": f"proved-{generation}", "generation": generation, "by": attempts.name, "paths": []}
        raw["rollback"] = _is_rollback(newest)
        for name in attempts.entry.notify:
            attempts.journal.queue(name, Notification("notify", raw))
        self._committer.observer.notified(attempts.entry.notify)

    def _disprove(self, waiting: Sequence[Entry], error: PermanentError, attempt: Attempt) -> None:
        newest = waiting[-1]
        back = None if _is_rollback(newest) else self._committer.disprove(str(error), self._attempts.provers)
        if back is None:
            attempt.retry(newest, TemporaryError(str(error)), forever=True)
            return
        self._attempts.log.error(
            "generation.rolled_back", generation=attempt.batch.generation, to=back, reason=str(error)
        )
        self._end_merged(waiting, Outcome.FAILED)
        attempt.end([newest], Outcome.FAILED, str(error))

    def _end_merged(self, waiting: Sequence[Entry], outcome: Outcome) -> None:
        if len(waiting) > 1:
            self._committer.observer.reloads_merged(len(waiting) - 1)
            self._attempts.end(waiting[:-1], outcome, f"merged into {waiting[-1].id}")

    def _count(self, result: str, attempt: Attempt) -> None:
        seconds = max(0.0, self._attempts.clock() - attempt.batch.started)
        self._committer.observer.reloaded(result, seconds)


def _is_rollback(entry: Entry) -> bool:
    return isinstance(entry.change, Notification) and entry.change.rollback

"""Timed work: asks a handler what is due, and when to ask again.

What `due` stages is journalled and committed like a change; what it could not do is journalled as refused.
A handler that keeps returning a time in the past is called less and less often, so that its bug does not keep
a CPU busy.
"""

from __future__ import annotations

import math
from typing import Final

from agentd.apply.attempts import Attempts
from agentd.backoff import Backoff
from agentd.errors import AgentdError, PermanentError
from agentd.handler import Handler
from agentd.journal.entry import Entry, Outcome
from agentd.watch.changes import Timer

_OVERDUE: Final = 1.0  # seconds for which changes that keep coming may hold up timed work
_PATIENCE: Final = 8  # steps that are due at once and done one by one are no bug
_STUBBORN: Final = Backoff(1.0, 60.0)
_FAILED: Final = Backoff(1.0, 60.0)


class Timers:
    """The timed work of one handler.

    Attributes:
        trouble: why the last attempt failed, or "".
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self.trouble = ""
        self._wants = type(attempts.handler).due is not Handler.due
        self._at = 0.0
        self._asked: float | None = None  # when the handler was asked last; unknown before the first look
        self._revision = -1
        self._steps = 0
        self._failures = 0

    @property
    def next_due(self) -> float | None:
        """Unix time at which the handler is called next, or None if it has no timed work."""
        return self._at if self._wants and 0 < self._at < math.inf else None

    def ask_again(self) -> None:
        """A change was handled, so that other work may be due now."""
        self._at = 0.0

    def overdue(self, now: float) -> bool:
        """Whether it has waited so long at `now` (unix seconds) that changes must wait for it.

        What fails is tried while nothing else is to be done.
        """
        if self._asked is None:
            self._asked = now
        late = not 0 <= now - self._asked < _OVERDUE  # the clock may have been set back
        return self._wants and late and self._at <= now and not self._failures

    def run(self, now: float) -> float:
        """Do what is due at `now` (unix seconds). Returns the seconds until the next look, 0 for at once."""
        if not self._wants:
            return math.inf
        if not self._moved() and now < self._at:
            return self._at - now
        self._failures += 1  # until it returns
        self._asked = now
        self._at = now + _FAILED.delay(self._failures)
        try:
            self._at = self._next(now, self._due(now))
        except Exception as error:
            self.trouble = (
                str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}, see the log"
            )
            raise
        self._failures, self.trouble = 0, ""
        self._moved()  # by its own commit, which `_next` has taken into account
        return max(0.0, self._at - now)

    def _moved(self) -> bool:
        """Whether this handler's files or store were committed or rolled back since the last look."""
        before, self._revision = (
            self._revision,
            self._attempts.committer.commits.revision(self._attempts.name),
        )
        return before != self._revision

    def _due(self, now: float) -> float | None:
        """Ask, and commit what it staged. Returns the unix time of the next timed work, or None."""
        attempt = self._attempts.begin(mend=False)
        try:
            at = attempt.do(lambda context: self._attempts.handler.due(now, context))
        except PermanentError as error:
            attempt.end([self._journalled(now)], Outcome.REFUSED, str(error))
            return now
        self._attempts.ask_for_proof(attempt.batch)
        if attempt.batch.clean:
            return at
        attempt.batch.keep(self._journalled(now))
        attempt.commit()
        return now if at is None else min(at, now)  # after every commit it is asked again

    def _journalled(self, now: float) -> Entry:
        return self._attempts.journal.queue(self._attempts.name, Timer("timer", {"at": now}))

    def _next(self, now: float, at: float | None) -> float:
        if at is None or at > now:
            self._steps = 0
            return math.inf if at is None else at
        self._steps += 1
        return now if self._steps <= _PATIENCE else now + _STUBBORN.delay(self._steps - _PATIENCE)

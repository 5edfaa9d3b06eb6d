"""Timed work: asks a handler what is due, and when to ask again.

What `due` stages is journalled and committed like a change; what it could not do is journalled as refused.
A handler that keeps answering with the past is
asked less and less often, so that its bug does not keep a processor busy.
"""

from __future__ import annotations

import math
from typing import Final

from agentd.apply.desk import Desk
from agentd.apply.handling import Handling
from agentd.apply.outcome import Outcome
from agentd.backoff import Backoff
from agentd.errors import PermanentError
from agentd.handler import Handler
from agentd.watch.changes import Timer

_PATIENCE: Final = 8  # steps that are due at once and done one by one are no bug
_STUBBORN: Final = Backoff(1.0, 60.0)
_FAILED: Final = Backoff(1.0, 60.0)


class Timing:
    """The timed work of one handler."""

    def __init__(self, desk: Desk, handling: Handling) -> None:
        self._desk = desk
        self._handling = handling
        self._wants = type(desk.handler).due is not Handler.due
        self._at = 0.0
        self._seen = (-1, -1)
        self._steps = 0
        self._failures = 0

    def ask_again(self) -> None:
        """A change was handled: what is due may be another thing now."""
        self._at = 0.0

    def turn(self, now: float) -> float:
        """Do what is due at `now` (unix seconds). Returns the seconds until the next look, 0 for at once."""
        if not self._wants:
            return math.inf
        if not self._moved() and now < self._at:
            return self._at - now
        self._failures += 1  # until it returns
        self._at = now + _FAILED.delay(self._failures)
        self._at = self._next(now, self._due(now))
        self._failures = 0
        self._moved()  # by itself, which `_next` has counted
        return max(0.0, self._at - now)

    def _moved(self) -> bool:
        """Whether this handler's files or store were committed or rolled back since the last look."""
        current = self._desk.committer.tree.current
        if current == self._seen[0]:
            return False
        before, self._seen = self._seen, (current, self._desk.committer.ledger.ground(self._desk.name))
        return before[1] != self._seen[1]

    def _due(self, now: float) -> float | None:
        """Ask, and commit what it staged. Returns the unix time of the next timed work, or None."""
        batch = self._desk.batch()
        context = batch.context(now, self._desk.log)
        try:
            at = self._desk.caller.call(lambda: self._desk.handler.due(now, context))
        except PermanentError as error:
            entry = self._desk.journal.owe(self._desk.name, Timer("timer", {"at": now}))
            self._desk.end([entry], Outcome.REFUSED, str(error), batch)
            return now
        if batch.clean:
            return at
        batch.keep(self._desk.journal.owe(self._desk.name, Timer("timer", {"at": now})))
        self._handling.commit(batch)
        return now if at is None else min(at, now)  # after every commit it is asked again

    def _next(self, now: float, at: float | None) -> float:
        if at is None or at > now:
            self._steps = 0
            return math.inf if at is None else at
        self._steps += 1
        return now if self._steps <= _PATIENCE else now + _STUBBORN.delay(self._steps - _PATIENCE)

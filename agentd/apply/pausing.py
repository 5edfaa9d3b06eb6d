"""Notices that somebody paused the handler of one worker, or let it go on, and says so everywhere.

A paused handler takes nothing that came from outside; its timed work, its checks and its notifications go on.
What waits stays in the journal, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from agentd.apply.attempts import Attempts
from agentd.errors import JournalError
from agentd.journal.pauses import Paused


class Pausing:
    """The pause of one handler, as its worker acts on it.

    Args:
        attempts: the handler's.
        pause: returns the pause that was asked for; None if there is none.

    Attributes:
        known: the pause that the worker keeps to; None if it takes what comes.
    """

    def __init__(self, attempts: Attempts, pause: Callable[[], Paused | None]) -> None:
        self.known: Paused | None = None
        self._attempts = attempts
        self._pause = pause
        self._is_new = True
        self._has_notes = True  # changes may say that they are held back, from an earlier run

    def look(self) -> bool:
        """Look whether the handler is paused now; what waits for it says so in the journal."""
        found, before = self._pause(), self.known
        self.known = found
        with suppress(JournalError):  # a pause holds, and ends, on a full disk as well
            self._note(found)
        if found != before or self._is_new:
            self._is_new = False
            self._say(found, before)
        return found is not None

    def _note(self, found: Paused | None) -> None:
        """Write the reason to what waits, or take it away; tried again until that works."""
        if found is not None or self._has_notes:
            self._has_notes = True
            self._attempts.journal.hold(self._attempts.name, "" if found is None else str(found))
            self._has_notes = found is not None

    def _say(self, found: Paused | None, before: Paused | None) -> None:
        attempts = self._attempts
        if found is not None:
            attempts.log.warning("handler.paused", since=found.since, until=found.until, reason=found.reason)
        elif before is not None:
            attempts.log.info("handler.resumed", since=before.since)
        attempts.committer.observer.paused(attempts.name, since=found.since if found else None)

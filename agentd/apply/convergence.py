"""Convergence: the newest state that failed is tried again, after its outcome, until it succeeds.

A state says what ought to be, so it does not become wrong by failing once. What failed is tried again after
its next wait; what was refused, when its inputs (nginx's configuration files, and for a joint handler the
states of its other queries) change; both at every start. States that an operator's rollback undid are left
alone until Consul has a newer one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from agentd.apply.attempts import Attempts
from agentd.journal.entry import Outcome
from agentd.journal.lapsed import Lapsed, in_force_since, lapsed, newest
from agentd.nginx.inputs import Inputs

_LOOK: Final = 5.0


class Convergence:
    """The newest states of one handler.

    Args:
        attempts: the handler's.
        queries: the identities of the queries that yield its states.
        inputs: what nginx reads beside the tree.
    """

    def __init__(self, attempts: Attempts, queries: Sequence[str], inputs: Callable[[], Inputs]) -> None:
        self._attempts = attempts
        self._queries = tuple(queries) if attempts.handler.converges else ()
        self._inputs = inputs
        self._before = newest(attempts.journal)  # what ended up to here ended in an earlier run
        self._at = 0.0
        self._refused: dict[int, str] = {}  # by number of its entry, the digest of the inputs that it had

    def ask_again(self) -> None:
        """A change was handled: look at once."""
        self._at = 0.0

    def run(self, now: float) -> float:
        """Queue what is to be tried again at `now` (unix seconds). Returns the seconds to the next look."""
        if not self._queries:
            return math.inf
        if now < self._at:
            return self._at - now
        found = lapsed(self._attempts.journal, self._attempts.name, self._queries)
        queued = [one for one in found if self._queue(one, now)]
        self._refused = {
            seq: seen for seq, seen in self._refused.items() if seq in {one.seq for one in found}
        }
        self._at = now + _LOOK
        return 0.0 if queued else _LOOK

    def _queue(self, one: Lapsed, now: float) -> bool:
        """Whether it is time, and it was queued; it may still have to wait for its next attempt."""
        attempts = self._attempts
        refused = one.outcome is Outcome.REFUSED
        if one.seq <= self._before or (refused and self._applied_beside(one)):
            not_before = 0.0
        elif refused:
            found = self._inputs()
            # Unless they changed while it was being refused, those of the first look are what it had.
            if found.newest < one.started and self._refused.setdefault(one.seq, found.digest) == found.digest:
                return False
            not_before = 0.0
        else:
            not_before = min(one.finished, now) + attempts.backoff.delay(one.attempts + 1)
        attempts.journal.try_again(one.seq, one.attempts + 1, not_before)
        return True

    def _applied_beside(self, one: Lapsed) -> bool:
        """Whether the state of another query was applied since, by a handler that applies them together."""
        others = [query for query in self._queries if query != one.query]
        return self._attempts.handler.joint and in_force_since(
            self._attempts.journal, self._attempts.name, others, one.finished
        )

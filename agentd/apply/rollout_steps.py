"""Ends what waits of a rollout for nothing: steps that were aborted meanwhile, and what has run already.

So a node that was paused or busy does not begin with what was taken back, and runs nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentd.apply.attempts import Attempts
from agentd.journal.entry import SUPERSEDED_BY, Entry, Outcome
from agentd.journal.steps import BEGUN, Steps
from agentd.watch.changes import Event, Message


class RolloutSteps:
    """What waits of rollouts for one handler.

    Args:
        attempts: the handler's.
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._steps = Steps(attempts.journal.database)
        self._runs_once = attempts.handler.runs_once

    def settle(self, waiting: Sequence[Entry], ripe: Sequence[Entry]) -> bool:
        """End those that are not to be handled. Returns whether there were any.

        Args:
            waiting: all that waits for the handler, in order.
            ripe: those of them that may be handled now.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        return self._end_aborted(waiting) or (self._runs_once and self._end_repeated(ripe))

    def _end_aborted(self, waiting: Sequence[Entry]) -> bool:
        aborts = {_rollout(one): one for one in waiting if _is_abort(one)}
        old = {
            one.seq: one
            for one in waiting
            if (key := _rollout(one)) in aborts and not _is_abort(one) and one.seq < aborts[key].seq
        }
        begun = self._steps.begun(list(old)) if old else ()
        for seq, one in old.items():
            by = aborts[_rollout(one)].id
            reason = f"{SUPERSEDED_BY}{by}{BEGUN if seq in begun else ''}"
            self._attempts.end([one], Outcome.EXPIRED, reason)
        return bool(old)

    def _end_repeated(self, ripe: Sequence[Entry]) -> bool:
        found = self._steps.at_turn(ripe[0]) if ripe else None
        if found is not None:
            self._attempts.end(ripe[:1], found.outcome, found.reason)
        return found is not None


def _message(entry: Entry) -> Message | None:
    message = entry.change.message if isinstance(entry.change, Event) else None
    return message if message and message.rollout and not message.replayed else None


def _rollout(entry: Entry) -> tuple[str, str]:
    """The log and the rollout that a waiting message belongs to, ("", "") if it belongs to none."""
    message = _message(entry)
    return (entry.change.query, message.rollout) if message else ("", "")


def _is_abort(entry: Entry) -> bool:
    message = _message(entry)
    return message is not None and message.restores > 0

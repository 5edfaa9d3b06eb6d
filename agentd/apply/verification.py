"""Verification: asks a handler whether what it committed takes effect outside the tree, and says so.

A change of a handler that verifies, or that notifies one that does, ends as applied only after a verdict
without drift; meanwhile it waits in the journal, and does not hold up later ones. As long as files of the
handler are not proved live, it is too early to ask. With `drift: report` only what such a change waits for is
mended, and what the first look after a start finds.
"""

from __future__ import annotations

import math
from typing import Final

import structlog

from agentd.apply.attempts import Attempts
from agentd.errors import AgentdError
from agentd.handler import Drift, Handler, Verdict
from agentd.journal.drift import Drifts

_LOOK: Final = 1.0  # seconds between two looks at whether a proof has ended
_OVERDUE: Final = 5.0
_log = structlog.get_logger()


class Verification:
    """The verification of one handler."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._handler = attempts.handler
        self._drifts = Drifts(attempts.journal)
        self._wants = type(attempts.handler).verify is not Handler.verify
        self._at = 0.0  # at the start at once
        self._verified = 0  # the newest generation that was asked about
        self._asked = False
        self._failures = 0

    def ask_again(self) -> None:
        """Ask at once."""
        self._at = 0.0

    def overdue(self, now: float) -> bool:
        """Whether it has waited so long at `now` (unix seconds) that changes must wait for it."""
        return self._wants and 0 < self._at <= now - _OVERDUE

    def run(self, now: float) -> float:
        """Ask if it is time to at `now` (unix seconds). Returns the seconds until the next look."""
        if not self._wants:
            return math.inf
        newest = self._attempts.committer.commits.to_verify(self._attempts.name) or 0
        if now < self._at and newest <= self._verified:
            return min(self._at - now, self._handler.verify_every)
        if self._attempts.committer.commits.awaits_proof(self._attempts.name):
            return _LOOK
        self._verified = newest
        mend = self._attempts.mend or newest > 0 or not self._asked
        self._asked = True
        self._settle(self._ask(mend=mend), newest)
        every = self._handler.verify_every
        wait = min(every, self._attempts.backoff.delay(self._failures)) if self._failures else every
        self._at = self._attempts.clock() + wait
        return wait

    def _ask(self, *, mend: bool) -> Verdict:
        """The handler's verdict; that it cannot be had is drift as well."""
        attempts = self._attempts
        try:
            attempt = attempts.begin(mend=False)
            verdict = attempt.ask(self._handler.verify, mend=mend)
        except AgentdError as error:
            reason = f"it cannot be verified: {error}"
        except Exception as error:  # noqa: BLE001 (a bug in the handler must not end the worker)
            _log.exception("verify.crashed", handler=attempts.name)
            reason = f"it cannot be verified: bug in the handler: {type(error).__name__}, see the log"
        else:
            attempts.ask_for_proof(attempt.batch)
            return verdict
        return Verdict(drift=(Drift("verification", reason),))

    def _settle(self, verdict: Verdict, newest: int) -> None:
        """Record the verdict, report what changed, and end what waited for it."""
        attempts, committer = self._attempts, self._attempts.committer
        new, gone = self._drifts.record(attempts.name, verdict.drift)
        for one in verdict.mended:
            attempts.log.warning("drift.mended", part=one.part, reason=one.reason)
        for one in new:
            attempts.log.error("drift.found", part=one.part, reason=one.reason)
        for one in gone:
            attempts.log.info("drift.gone", part=one.part, reason=one.reason)
        committer.observer.drifted(attempts.name, len(verdict.drift), len(verdict.mended))
        committer.observer.gauged(attempts.name, verdict.gauges)
        if verdict.drift:
            self._failures += 1
            if newest:
                committer.commits.not_in_effect(attempts.name, _sentence(verdict))
            return
        self._failures = 0
        if newest:
            reason = f"not verified: {verdict.unasked}" if verdict.unasked else ""
            committer.verified(attempts.name, newest, reason)


def _sentence(verdict: Verdict) -> str:
    first, *more = verdict.drift
    return f"{first.part}: {first.reason}" + (f" (and {len(more)} more)" if more else "")

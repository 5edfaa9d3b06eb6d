"""Asks a handler what it tells the fleet of itself, in its worker's thread, if there is a fleet.

It is asked again whenever its files or its store have moved, which is looked up only after something was
written to the journal: workers ask every second. Owns the bounds of what a handler may tell, and
that it is noted how far in the fleet's log the handler was then; what becomes of it is not known here.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from agentd.accounts import Account
from agentd.errors import AgentdError
from agentd.handler import Context, Handler
from agentd.journal.followed import Followed

if TYPE_CHECKING:
    from agentd.apply.attempts import Attempts

LONGEST: Final = 128
"""Characters of a fingerprint."""
MOST: Final = 2048
"""Bytes of a report, as JSON."""
_AGAIN: Final = 60.0  # seconds until one that raised is asked again
_log = structlog.get_logger()


class Accounting:
    """Asks one handler, if there is somebody who wants to know."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._at = 0.0
        self._asked: int | None = None  # the revision about which it was asked
        self._seen: tuple[int, ...] = ()  # the state of the journal when that was looked up
        self._followed = Followed(attempts.journal)
        self._names = attempts.entry.kept

    def ask_again(self) -> None:
        """Ask at once if the last time failed."""
        self._at = 0.0

    def run(self, now: float) -> float:
        """Ask if there is reason to at `now` (unix seconds). Returns the seconds until the next look."""
        accounts = self._attempts.accounts
        if accounts is None:
            return math.inf
        seen, before = self._attempts.journal.database.state(), accounts.get(self._attempts.name)
        if before and seen == self._seen and now < self._at:
            return math.inf
        revision = self._attempts.committer.commits.revision(self._attempts.name)
        place = self._followed.place(self._attempts.name, self._names)
        self._seen = seen
        if before and revision == self._asked and now < self._at:
            if place != before.place:  # a message that changed nothing
                accounts.put(self._attempts.name, replace(before, place=place), now)
            return math.inf
        account = replace(self._ask(revision), place=place)
        if account.trouble and (before is None or before.trouble != account.trouble):
            self._attempts.log.error("fingerprint.failed", reason=account.trouble)
        self._asked = revision
        self._at = now + _AGAIN if account.trouble else math.inf
        accounts.put(self._attempts.name, account, now)
        return math.inf

    def _ask(self, revision: int) -> Account:
        try:
            return self._attempts.begin(mend=False).ask(
                lambda context: _told(self._attempts.handler, context, revision)
            )
        except AgentdError as error:
            return Account(revision, trouble=str(error))
        except Exception as error:  # noqa: BLE001 (a bug in the handler must not end the worker)
            name = type(error).__name__
            _log.exception("fingerprint.crashed", handler=self._attempts.name)
            return Account(revision, trouble=f"bug in the handler: {name}, see the log")


def _told(handler: Handler, context: Context, revision: int) -> Account:
    fingerprint: object = handler.fingerprint(context)
    if fingerprint is not None and not (isinstance(fingerprint, str) and 0 < len(fingerprint) <= LONGEST):
        raise ValueError(f"a fingerprint is a text of 1 to {LONGEST} characters")
    text = json.dumps(dict(handler.report(context)), allow_nan=False)
    if len(text) > MOST:
        raise ValueError(f"a report has at most {MOST} bytes")
    return Account(revision, fingerprint, json.loads(text))

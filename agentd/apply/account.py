"""What a handler tells the fleet of itself: asked in its worker's thread, kept for whoever acknowledges.

It is asked again whenever its files or its store have moved. Owns the bounds of what a handler may tell; what
becomes of it is not known here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from agentd.errors import AgentdError
from agentd.handler import Context, Handler

if TYPE_CHECKING:
    from agentd.apply.attempts import Attempts

LONGEST: Final = 128
"""Characters of a fingerprint."""
MOST: Final = 2048
"""Bytes of a report, as JSON."""
_AGAIN: Final = 60.0  # seconds until one that raised is asked again
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Account:
    """What one handler told.

    Attributes:
        revision: that of its files and store when it was asked (see `Commits.revision`).
        fingerprint: see `Handler.fingerprint`.
        report: see `Handler.report`.
        trouble: why it could not be had; "" if it was.
    """

    revision: int
    fingerprint: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""


class Accounts:
    """The last account of each handler; any thread may call any method.

    Args:
        news: called when one differs from the one before.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._last: dict[str, Account] = {}

    def get(self, handler: str) -> Account | None:
        """The last one, None as long as there is none."""
        return self._last.get(handler)

    def put(self, handler: str, account: Account) -> None:
        """Keep it instead of the one before."""
        before = self._last.get(handler)
        self._last[handler] = account
        if account != before:
            self._news()


class Accounting:
    """Asks one handler, if there is somebody who wants to know."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._at = 0.0
        self._asked: int | None = None  # the revision about which it was asked

    def ask_again(self) -> None:
        """Ask at once if the last time failed."""
        self._at = 0.0

    def run(self, now: float) -> float:
        """Ask if there is reason to at `now` (unix seconds). Returns the seconds until the next look."""
        accounts = self._attempts.accounts
        if accounts is None:
            return math.inf
        revision = self._attempts.committer.commits.revision(self._attempts.name)
        if revision == self._asked and now < self._at:
            return math.inf
        account = self._ask(revision)
        before = accounts.get(self._attempts.name)
        if account.trouble and (before is None or before.trouble != account.trouble):
            self._attempts.log.error("fingerprint.failed", reason=account.trouble)
        self._asked = revision
        self._at = now + _AGAIN if account.trouble else math.inf
        accounts.put(self._attempts.name, account)
        return math.inf

    def _ask(self, revision: int) -> Account:
        try:
            return self._attempts.begin().ask(
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

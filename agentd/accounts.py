"""What the handlers report to the fleet: the last account of each, and its earlier states.

The handlers' workers ask for the accounts; they are kept here, in memory only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MOST_STATES: Final = 24
"""Most states of a handler to remember."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one handler reported.

    Attributes:
        revision: the revision of its files and store at that time (see `Commits.revision`).
        fingerprint: see `Handler.fingerprint`.
        report: see `Handler.report`.
        trouble: why the report failed; "" if it did not.
        place: how far the handler had come in the fleet's log (see `Followed.place`).
    """

    revision: int
    fingerprint: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """A state of one handler.

    Attributes:
        place: how far it had come in the fleet's log.
        fingerprint: its fingerprint; None if there is nothing to compare.
        since: unix time at which the state began; it lasts until the next one.
    """

    place: str
    fingerprint: str | None
    since: float


class Accounts:
    """The last account of each handler; any thread may call any method.

    Args:
        news: called when an account differs from the one before.

    Attributes:
        changes: how many accounts differed so far.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self.changes = 0
        self._news = news
        self._last: dict[str, Account] = {}
        self._states: dict[str, deque[State]] = {}

    def get(self, handler: str) -> Account | None:
        """The handler's last account; None if there is none yet."""
        return self._last.get(handler)

    def states(self, handler: str) -> tuple[State, ...]:
        """The handler's latest states, the current one last."""
        return tuple(self._states.get(handler, ()))

    def put(self, handler: str, account: Account, at: float) -> None:
        """Replace the handler's account; `at` is the unix time."""
        before = self._last.get(handler)
        states = self._states.setdefault(handler, deque(maxlen=MOST_STATES))
        if not states or (states[-1].place, states[-1].fingerprint) != (account.place, account.fingerprint):
            states.append(State(account.place, account.fingerprint, at))
        self._last[handler] = account
        if account != before:
            self.changes += 1
            self._news()

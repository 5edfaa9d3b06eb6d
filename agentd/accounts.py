"""What the handlers tell the fleet of themselves: the last account of each, and what it was before.

It asks nobody; that is up to the handlers' workers. It forgets all with the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MOST_STATES: Final = 24
"""States of one handler that are remembered."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one handler told.

    Attributes:
        revision: that of its files and store when it was asked (see `Commits.revision`).
        fingerprint: see `Handler.fingerprint`.
        report: see `Handler.report`.
        trouble: why it could not be had; "" if it was.
        place: how far it was in the fleet's log (see `Followed.place`).
    """

    revision: int
    fingerprint: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What one handler had come to.

    Attributes:
        place: how far it was in the fleet's log.
        fingerprint: as it told it then; None: not to be compared.
        since: unix time from which that was so, until the next state began.
    """

    place: str
    fingerprint: str | None
    since: float


class Accounts:
    """The last account of each handler; any thread may call any method.

    Args:
        news: called when one differs from the one before.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._last: dict[str, Account] = {}
        self._states: dict[str, deque[State]] = {}

    def get(self, handler: str) -> Account | None:
        """The last one, None as long as there is none."""
        return self._last.get(handler)

    def states(self, handler: str) -> tuple[State, ...]:
        """The latest states of the handler, the current one last."""
        return tuple(self._states.get(handler, ()))

    def put(self, handler: str, account: Account, at: float) -> None:
        """Keep it instead of the one before; `at` is the unix time."""
        before = self._last.get(handler)
        states = self._states.setdefault(handler, deque(maxlen=MOST_STATES))
        if not states or (states[-1].place, states[-1].fingerprint) != (account.place, account.fingerprint):
            states.append(State(account.place, account.fingerprint, at))
        self._last[handler] = account
        if account != before:
            self._news()

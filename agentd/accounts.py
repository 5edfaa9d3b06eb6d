"""What the handlers tell the fleet of themselves: the last account of each, for whoever acknowledges.

It asks nobody; that is up to the handlers' workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


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

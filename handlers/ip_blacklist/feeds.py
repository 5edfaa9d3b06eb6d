"""When a list is fetched by schedule: with jitter, and again sooner after a failure.

Owns the schedule, as JSON values in the store. It fetches nothing. Times are unix seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from handlers.ip_blacklist.limits import ListOptions

_JITTER: Final = 0.1
_RETRY: Final = 60.0
_random: Final = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Feed:
    """How one feed is.

    Attributes:
        next: when it is fetched next; 0: at once.
        checked: when it was asked last and answered.
        failures: in a row.
        error: why the last one failed, "" if it did not.
        reference: what it was fetched from; another one makes it due.
        etag: what the server said of the payload in force; `last_modified` likewise.
    """

    next: float = 0.0
    checked: float = 0.0
    failures: int = 0
    error: str = ""
    reference: str = ""
    etag: str = ""
    last_modified: str = ""


class Feeds:
    """The feeds of one attempt.

    Args:
        store: the handler's.
        options: of each list.
        jitter: a number from 0 to 1 whenever it is called.
    """

    def __init__(
        self,
        store: MutableMapping[str, Any],
        options: Mapping[str, ListOptions],
        jitter: Callable[[], float] = _random.random,
    ) -> None:
        self._store = store
        self._options = {name: one for name, one in options.items() if one.every is not None}
        self._jitter = jitter

    def get(self, name: str) -> Feed:
        """How a feed is."""
        stored = self._store.get("feeds", {}).get(name)
        found = Feed(**stored) if stored else Feed()
        return found if found.reference == self._options[name].reference else Feed()

    def all(self) -> dict[str, Feed]:
        """Every list that is fetched by schedule."""
        return {name: self.get(name) for name in sorted(self._options)}

    def due(self, now: float) -> str | None:
        """The feed whose time has come longest ago, or None."""
        ripe = [(feed.next, name) for name, feed in self.all().items() if feed.next <= now]
        return min(ripe)[1] if ripe else None

    def next(self) -> float | None:
        """When the next one is due, or None if there are no feeds."""
        return min((feed.next for feed in self.all().values()), default=None)

    def succeeded(self, name: str, now: float, etag: str, last_modified: str) -> None:
        """It was fetched, or had not changed."""
        every = self._options[name].every or _RETRY
        wait = every * (1 + _JITTER * (2 * self._jitter() - 1))
        self._put(name, Feed(now + wait, now, 0, "", self._reference(name), etag, last_modified))

    def failed(self, name: str, now: float, error: str, retry_after: float | None) -> None:
        """It could not be fetched, or was refused; what is in force stays."""
        feed = self.get(name)
        wait = min(self._options[name].every or _RETRY, _RETRY * 2 ** min(feed.failures, 20))
        wait = max(wait, retry_after or 0.0) * (1 + _JITTER * self._jitter())
        self._put(
            name,
            Feed(
                now + wait, feed.checked, feed.failures + 1, error, self._reference(name),
                feed.etag, feed.last_modified,
            ),
        )  # fmt: skip

    def prune(self) -> None:
        """Forget those that are not configured any more."""
        kept = {name: one for name, one in self._store.get("feeds", {}).items() if name in self._options}
        self._store["feeds"] = kept

    def _reference(self, name: str) -> str:
        return self._options[name].reference or ""

    def _put(self, name: str, feed: Feed) -> None:
        self._store.setdefault("feeds", {})[name] = asdict(feed)

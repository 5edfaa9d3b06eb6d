"""The lists that are fetched on schedule: with jitter, less often while they fail, beside everything else.

Owns the schedule, as JSON values in the store, and what becomes of a fetch. That a feed is asked is committed
before it is asked, so that one that brings agentd down is not asked again at once after the restart. Whatever
a fetch raises is that feed's failure. Times are unix seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from agentd.errors import TreeError
from agentd.handler import Context, HandlerError, Known, PermanentError, Task, TemporaryError, digest
from handlers.ip_blacklist.lists import FEED, Lists, Loaded, Version, path
from handlers.ip_blacklist.options import ListOptions

FULL: Final = 86_400.0
"""Seconds after which a feed is fetched whole, although its server says that it has not changed."""
_JITTER: Final = 0.1
_RETRY: Final = 60.0
_LONGEST: Final = 3600.0  # of what a server may ask for with Retry-After
_random: Final = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Feed:
    """The state of one feed.

    Attributes:
        next: when it is fetched next; 0 for at once.
        checked: when its source last answered.
        failures: number of failures in a row.
        error: why the last fetch failed, "" if it did not.
        reference: what it was fetched from; if that changes, the feed is due.
        etag: of the payload in force, from the server; `last_modified` likewise.
        asked: since when it is being fetched; 0 if it is not.
        full: when it was last fetched whole.
        options: digest of the options with which that was judged.
    """

    next: float = 0.0
    checked: float = 0.0
    failures: int = 0
    error: str = ""
    reference: str = ""
    etag: str = ""
    last_modified: str = ""
    asked: float = 0.0
    full: float = 0.0
    options: str = ""


_FIELDS: Final = frozenset(field.name for field in fields(Feed))


class Unstaged(PermanentError):  # noqa: N818 (it says what happened)
    """What was fetched cannot be staged, such as for want of space: `name` is the feed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"feed {name}: {reason}")
        self.name, self.reason = name, reason


class Feeds:
    """The feeds of one attempt.

    Args:
        context: of the attempt.
        lists: in force.
        options: of each list.
        jitter: a number from 0 to 1 whenever it is called.
    """

    def __init__(
        self,
        context: Context,
        lists: Lists,
        options: Mapping[str, ListOptions],
        jitter: Callable[[], float] = _random.random,
    ) -> None:
        self._context, self._lists, self._jitter = context, lists, jitter
        self._store: MutableMapping[str, Any] = context.store
        self._options = {name: one for name, one in options.items() if one.every is not None}

    def all(self) -> dict[str, Feed]:
        """Every list that is fetched on schedule."""
        return {name: self.get(name) for name in sorted(self._options)}

    def get(self, name: str) -> Feed:
        """The state of a feed."""
        stored = self._store.get("feeds", {}).get(name, {})
        found = Feed(**{name: value for name, value in stored.items() if name in _FIELDS})
        return found if found.reference == self._options[name].reference else Feed()

    def next(self, now: float) -> float | None:
        """When the next one is due, or None if there are none, or all are being fetched."""
        idle = (name for name, feed in self.all().items() if not feed.asked)
        return min((self._due_at(name, now) for name in idle), default=None)

    # ------------------------------------------------------------------ fetching

    def tasks(self, now: float) -> dict[str, Task[Version | None]]:
        """The fetches of all feeds that were recorded as asked; each call of `due` must ask for them."""
        return {name: self._task(name, now) for name, feed in self.all().items() if feed.asked}

    def step(
        self,
        tasks: Mapping[str, Task[Version | None]],
        now: float,
        unstaged: Mapping[str, str],
        *,
        alone: bool = False,
    ) -> dict[str, Exception]:
        """Record what is due as asked for, and take the fetches that are done.

        Args:
            tasks: of this call.
            now: the time.
            unstaged: by name, why what was fetched could not be staged when it was tried.
            alone: whether to bring no more than one list into force.

        Returns:
            The feeds whose fetch failed, and why.

        Raises:
            Unstaged: what was fetched cannot be staged; whatever this attempt staged must be dropped.
        """
        for name in self._options.keys() - tasks.keys():
            if self._due_at(name, now) <= now:
                feed = replace(self.get(name), asked=now, next=now + self._wait(name))
                self._put(name, feed)
        failed: dict[str, Exception] = {}
        before = self._lists.loaded()
        for name, task in tasks.items():
            if not task.done or (alone and self._lists.loaded() != before):
                continue
            error = PermanentError(unstaged[name]) if name in unstaged else self._take(name, task, now)
            if error is not None:
                self._fail(name, now, error)
                failed[name] = error
        return failed

    def interrupted(self, now: float) -> None:
        """At a start: what was being fetched when agentd ended is asked again, but not at once."""
        for name, feed in self.all().items():
            if feed.asked:
                self._failed(name, now, "agentd ended while it was being fetched", None)

    def overtaken(self, name: str, now: float) -> None:
        """An event has changed the list: what is being fetched is older than that, and not taken."""
        if name in self._options and self.get(name).asked:
            self._put(name, replace(self.get(name), asked=0.0, next=now + self._every(name)))

    def _task(self, name: str, now: float) -> Task[Version | None]:
        reference = self._options[name].reference or ""
        fetch = self._lists.fetching(name, reference, self._known(name, now))
        return self._context.task(f"feed {name}", fetch)

    def _known(self, name: str, now: float) -> Known:
        """What its server may be asked to compare with: nothing if that is not about the list in force.

        A server can be wrong, so now and then it is not asked.
        """
        feed, loaded = self.get(name), self._lists.loaded().get(name)
        held = self._context.files.path(path(name, "plain")) is not None
        same = held and loaded is not None and (loaded.change, loaded.reference) == (FEED, feed.reference)
        if same and feed.full <= now < feed.full + FULL and feed.options == self._judge(name):
            return Known(feed.etag, feed.last_modified)
        return Known()

    def _take(self, name: str, task: Task[Version | None], now: float) -> Exception | None:
        """Bring it into force, or say what went wrong; then the list in force stays."""
        loaded: Loaded | None = None
        try:
            version = task.result()
            if version is not None:
                reference = self._options[name].reference or ""
                loaded = self._lists.judged(name, version, reference, FEED, force=False)
        except Exception as error:  # noqa: BLE001 (it must not stop the others, whatever it is)
            return error
        if version is not None and loaded is not None:
            try:
                self._lists.replace(name, version, loaded)
            except TreeError as error:
                raise Unstaged(name, str(error)) from error
        self._succeeded(name, now, version)
        return None

    def _fail(self, name: str, now: float, error: Exception) -> None:
        known = isinstance(error, HandlerError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        wait = error.retry_after if isinstance(error, TemporaryError) else None
        self._failed(name, now, reason, wait)
        trace = None if known else error
        self._context.log.warning("blacklist.feed_failed", list=name, reason=reason, exc_info=trace)

    # ------------------------------------------------------------------ the schedule

    def _succeeded(self, name: str, now: float, version: Version | None) -> None:
        """Record that it was fetched, or (None) had not changed."""
        wait = self._every(name) * (1 + _JITTER * (2 * self._jitter() - 1))
        feed = replace(self.get(name), next=now + wait, checked=now, failures=0, error="", asked=0.0)
        if version is not None:
            known = version.known
            feed = replace(feed, etag=known.etag, last_modified=known.last_modified)
            feed = replace(feed, full=now, options=self._judge(name))
        self._put(name, feed)

    def _failed(self, name: str, now: float, error: str, retry_after: float | None) -> None:
        """Record that it could not be fetched, or was refused."""
        feed = self.get(name)
        wait = max(self._wait(name), min(retry_after or 0.0, _LONGEST)) * (1 + _JITTER * self._jitter())
        after = replace(feed, next=now + wait, failures=feed.failures + 1, error=error, asked=0.0)
        self._put(name, after)
        self._store["feed_failures"] = self._store.get("feed_failures", 0) + 1

    def prune(self, now: float) -> None:
        """Forget feeds that are no longer configured; none waits longer from now on than it ever waits.

        The clock may have been set back while agentd was down.
        """
        kept = {name: one for name, one in self._store.get("feeds", {}).items() if name in self._options}
        self._store["feeds"] = kept
        for name in kept:
            feed, every = self.get(name), self._every(name)
            if feed.next > now + every * (1 + _JITTER):
                self._put(name, replace(feed, next=now + every, checked=min(feed.checked, now)))

    def _due_at(self, name: str, now: float) -> float:
        """When it is due: at once if that is further away than ever, since the clock was set back."""
        at = self.get(name).next
        return at if at <= now + max(self._every(name), _LONGEST) * (1 + _JITTER) else now

    def _every(self, name: str) -> float:
        return self._options[name].every or _RETRY

    def _wait(self, name: str) -> float:
        """How long after a failure it is asked again."""
        return min(self._every(name), _RETRY * 2.0 ** min(self.get(name).failures, 20))

    def _judge(self, name: str) -> str:
        return digest(self._options[name].model_dump_json().encode())

    def _put(self, name: str, feed: Feed) -> None:
        feed = replace(feed, reference=self._options[name].reference or "")
        self._store.setdefault("feeds", {})[name] = asdict(feed)

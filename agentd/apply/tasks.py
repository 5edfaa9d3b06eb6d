"""The tasks of one handler: what it has done outside its calls, such as downloads.

It owns their threads, their number and their time, and their private directories. A task belongs to a change
or to the handler's timed work, and is forgotten with it; a thread that does not end when it should is
abandoned, and counted as long as it lives. What a task does is the handler's business.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from agentd.apply.observer import Observer
from agentd.apply.programs import Programs
from agentd.errors import TemporaryError
from agentd.handler import Log, Task, TaskContext, Tasks
from agentd.sources.download import DownloadDirectory
from agentd.sources.fetcher import Fetcher, Sources

T = TypeVar("T")
TIMED: Final = ""
"""The owner of what `due` asks for; every other owner is the ID of a change."""
_GRACE: Final = 10.0
"""Seconds by which a task may miss its time limit before its thread is abandoned."""
_LONG: Final = 10.0
"""Seconds after which a task keeps no other waiting: a few slow servers must not take all places."""
MOST_ASIDE: Final = 100
"""Changes of one handler that may have tasks at the same time."""
_MOST: Final = 4
"""How many times the limit may run of what changes ask for; operators decide how many feeds there are."""


@dataclass(eq=False)
class _Work:
    """One task, and what belongs to it; `began` is a monotonic time."""

    owner: str
    task: Task[Any]
    work: Callable[[TaskContext], Any]
    directory: DownloadDirectory
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    began: float = 0.0
    abandoned: bool = False

    @property
    def runs(self) -> bool:
        return self.thread is not None and self.thread.is_alive() and not self.task.done


class HandlerTasks:
    """All tasks of one configured handler. Safe from any thread.

    Args:
        name: of the handler.
        sources: what its tasks may fetch.
        seconds: how long one may take.
        log: the handler's.
        observer: is told how many there are.

    Attributes:
        wake: called from any thread when a task is done.
    """

    def __init__(self, name: str, sources: Sources, seconds: float, log: Log, observer: Observer) -> None:
        self.wake: Callable[[], object] = lambda: None
        self._name, self._sources, self._seconds = name, sources, seconds
        self._log, self._observer = log, observer
        self._lock = threading.RLock()
        self._known: dict[tuple[str, str], _Work] = {}
        self._hanging: list[_Work] = []
        self._waiting = 0
        self._news = False
        self._closed = False

    def of(self, owner: str) -> OwnTasks:
        """`Context.task` of what belongs to this owner."""
        return OwnTasks(self, owner)

    def ask(self, owner: str, key: str, work: Callable[[TaskContext], T]) -> Task[T]:
        """See `agentd.handler.Tasks`."""
        with self._lock:
            found = self._known.get((owner, key))
            owners = self._owners()
            if found is None and owner not in (TIMED, *owners) and len(owners) >= MOST_ASIDE:
                later = Task[T](key)
                later.waits = f"{MOST_ASIDE} changes of this handler already wait for downloads"
                return later
            if found is None:
                found = _Work(owner, Task[Any](key), work, self._sources.new_directory())
                self._known[owner, key] = found
                if any(one.task.key == key and one.owner == owner for one in self._still_hanging()):
                    reason = f"{key}: the thread of the last attempt still hangs; restart agentd to end it"
                    found.task.settle(None, TemporaryError(reason))
                self._begin()
            return found.task

    def under_way(self, owner: str) -> bool:
        """Whether a task of this owner is not done."""
        with self._lock:
            return any(not one.task.done for one in self._known.values() if one.owner == owner)

    def ready(self, changes: Iterable[str]) -> set[str]:
        """Which of these changes (IDs of entries) go on: their tasks are done, or there is room for some."""
        with self._lock:
            owners = self._owners()
            done = [one for one in changes if one in owners and not self.under_way(one)]
            new = [one for one in changes if one not in owners]
            return {*done, *new[: max(0, MOST_ASIDE - len(owners))]}

    def news(self) -> bool:
        """Whether a task of the timed work is done since the last call.

        Also looks at the time: abandons tasks that hang, and starts others beside those that take long.
        """
        with self._lock:
            now = time.monotonic()
            for one in self._known.values():
                if one.runs and now > one.began + self._seconds + _GRACE:
                    self._abandon(one)
            if self._waiting:
                self._begin()
            news, self._news = self._news, False
            return news

    def keep_only(self, changes: Collection[str]) -> None:
        """Forget the tasks of all changes but these (IDs of entries)."""
        self._forget(lambda one: one.owner != TIMED and one.owner not in changes)

    def keep_timed(self, keys: Collection[str]) -> None:
        """Forget the tasks of the timed work except those that it has just asked for."""
        self._forget(lambda one: one.owner == TIMED and one.task.key not in keys)

    def forget(self, owner: str) -> None:
        """The next attempt starts them anew."""
        self._forget(lambda one: one.owner == owner)

    def close(self) -> None:
        """End them all, without waiting for their threads, and start no more."""
        with self._lock:
            self._closed = True
            self._forget(lambda _: True)
            self._observer.tasks(self._name, 0, 0, 0)

    # ------------------------------------------------------------------ with the lock

    def _owners(self) -> set[str]:
        """The changes that have tasks."""
        return {owner for owner, _ in self._known if owner != TIMED}

    def _forget(self, which: Callable[[_Work], bool]) -> None:
        with self._lock:
            gone = {at: one for at, one in self._known.items() if which(one)}
            for at, one in gone.items():
                del self._known[at]
                one.stop.set()
                one.directory.close()
                if one.runs:
                    self._hanging.append(one)  # until its thread has seen that it must stop
            if gone:
                self._begin()

    def _still_hanging(self) -> list[_Work]:
        return [one for one in self._hanging if one.abandoned and one.thread and one.thread.is_alive()]

    def _begin(self) -> None:
        """Start as many as may run: the timed work and the changes each have the whole limit."""
        if self._closed:
            return
        limit = self._sources.options.parallel
        long_ago = time.monotonic() - _LONG
        ending = threading.current_thread()
        self._hanging = [
            one for one in self._hanging if one.thread and one.thread.is_alive() and one.thread is not ending
        ]
        self._waiting = 0
        for timed, most in ((True, math.inf), (False, _MOST * limit)):
            lane = [one for one in self._known.values() if (one.owner == TIMED) is timed]
            running = [one for one in lane if one.runs]
            running += [one for one in self._hanging if (one.owner == TIMED) is timed]
            young = sum(one.began > long_ago for one in running)
            for one in lane:
                if one.thread is not None or one.task.done:
                    continue
                if young < limit and len(running) < most:
                    self._start(one)
                    running.append(one)
                    young += 1
                    continue
                self._waiting += 1
                if not one.task.waits:
                    count = len(running)
                    one.task.waits = f"{one.task.key}: waits for one of {count} others (sources.parallel)"
                    self._log.warning("task.waits", task=one.task.key, running=count, limit=limit)
        count = sum(one.runs for one in self._known.values())
        self._observer.tasks(self._name, count, self._waiting, len(self._still_hanging()))

    def _start(self, one: _Work) -> None:
        one.task.waits = ""
        one.began = time.monotonic()
        one.thread = threading.Thread(
            target=self._run, args=(one,), name=f"handler {self._name} task", daemon=True
        )
        try:
            one.thread.start()
        except RuntimeError as error:
            one.task.settle(None, TemporaryError(f"{one.task.key}: no thread can be started: {error}"))
            self._news = self._news or one.owner == TIMED

    def _abandon(self, one: _Work) -> None:
        one.abandoned = True
        one.stop.set()
        reason = f"{one.task.key}: did not end within {self._seconds:g} s"
        one.task.settle(None, TemporaryError(reason))
        self._hanging.append(one)
        self._log.error("task.hangs", task=one.task.key, seconds=self._seconds)
        self._done(one)

    # ------------------------------------------------------------------ the task's own thread

    def _run(self, one: _Work) -> None:
        one.task.run(lambda: one.work(self._context(one)))
        self._done(one)

    def _context(self, one: _Work) -> TaskContext:
        made = one.directory.make()
        end = one.began + self._seconds
        fetch = Fetcher(self._sources, one.directory, end, self._log, one.stop)
        run = Programs(end, self._log, one.stop)
        return TaskContext(fetch, run, self._log, made)

    def _done(self, one: _Work) -> None:
        with self._lock:
            self._news = self._news or one.owner == TIMED
            self._begin()
        self.wake()


class _Asked(Protocol):
    """All tasks of a handler, in the daemon or in a test."""

    def ask(self, owner: str, key: str, work: Callable[[TaskContext], T]) -> Task[T]:
        """See `agentd.handler.Tasks`."""


@dataclass(frozen=True)
class OwnTasks(Tasks):
    """`Context.task` of one call; `asked` are the keys that it asked for."""

    tasks: _Asked
    owner: str
    asked: set[str] = field(default_factory=set)

    def __call__(self, key: str, work: Callable[[TaskContext], T]) -> Task[T]:
        """See `agentd.handler.Tasks`."""
        self.asked.add(key)
        return self.tasks.ask(self.owner, key, work)

"""One batch: what a handler's calls may touch until all of it is committed or dropped.

Everything that a call can reach (stage, store, processes) belongs to its batch and ends with it, so a call
that is abandoned at its time limit changes nothing.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from agentd.apply.programs import Programs
from agentd.errors import TemporaryError
from agentd.handler import Context, Fetch, Log, Run, Task, TaskContext, Tasks, Watched
from agentd.journal.entry import Entry
from agentd.journal.store import marked
from agentd.options import NginxOptions
from agentd.sources.fetcher import Fetcher, Sources
from agentd.tree.stage import Mark, Stage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """One entry of a batch, and what its call did.

    Attributes:
        changed: it staged or stored something.
        ran: it ran a program that may have changed something.
        refused: why the handler refused it, or None.
    """

    entry: Entry
    changed: bool = False
    ran: bool = False
    refused: str | None = None


_Mark: TypeAlias = tuple[Mark, str]


@dataclass
class Batch:
    """What is staged for one commit.

    Attributes:
        store: the handler's store, as its calls see and change it.
        store_format: the handler's.
        generation: the generation that was current when the batch began.
        timeout: time limit of each call, in seconds.
        revision: that of the handler when the batch began (see `Commits.revision`); None: any.
        stop: ends the programs and the transfers of a call when it is set.
        sources: what its calls may fetch; None: nothing.
        started: unix time.
        states: see `Context.states`.
        ran: whether the current call ran a program that may have changed something.
        reload: whether a call asked for a reload; see `Context.reload`.
        kept: the entries that are part of it so far, in order.
        would_run: the programs that a dry run did not run.
    """

    handler: str
    stage: Stage
    store: dict[str, Any]
    nginx: NginxOptions
    generation: int
    timeout: float
    revision: int | None = None
    store_format: int = 1
    dry_run: bool = False
    stop: threading.Event | None = None
    started: float = 0.0
    sources: Sources | None = None
    states: Callable[[], Sequence[Watched]] = lambda: ()
    ran: bool = False
    reload: bool = False
    kept: list[Kept] = field(default_factory=list)
    would_run: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._room = self.sources.new_directory() if self.sources else None
        if self._room:
            weakref.finalize(self, self._room.close)
        self._mark: _Mark | None = None
        self._first = self._last = self._marked()

    @property
    def clean(self) -> bool:
        """Whether nothing staged or stored differs from the beginning."""
        return self._marked() == self._first

    @property
    def new_store(self) -> dict[str, Any] | None:
        """The store, marked with its format, if it differs from the beginning."""
        return None if self._marked()[1] == self._first[1] else marked(self.store, self.store_format)

    def keep(self, entry: Entry) -> None:
        """Make the entry, with what its call staged, part of the commit.

        Raises:
            TypeError, ValueError: the store is not JSON.
        """
        mark = self._marked()
        self.kept.append(Kept(entry, changed=mark != self._last, ran=self.ran))
        self._last = mark

    def keep_joint(self) -> None:
        """What was staged since the last entry was made from all entries together."""
        mark = self._marked()
        if mark != self._last:
            self.kept = [one if one.refused is not None else replace(one, changed=True) for one in self.kept]
        self._last = mark

    def refuse(self, entry: Entry, reason: str) -> None:
        """Drop what its call staged; the refusal is recorded once the entries before it are committed."""
        self.drop()
        self.kept.append(Kept(entry, refused=reason))

    def drop(self) -> None:
        """Drop what was staged and stored since the last entry that was kept."""
        self.stage.reset(self._last[0])
        self.store.clear()
        self.store.update(json.loads(self._last[1]))
        self._mark = self._last

    def _marked(self) -> _Mark:
        """What is staged and stored; computed once after each call."""
        if self._mark is None:
            self._mark = self.stage.mark(), json.dumps(self.store, sort_keys=True, allow_nan=False)
        return self._mark

    def context(  # noqa: PLR0913 (a call has this many sides; all but two are named)
        self,
        now: float,
        log: Log,
        *,
        mend: bool = True,
        last_attempt: bool = False,
        tasks: Tasks | None = None,
        place: int = 0,
        overtakes: int | None = None,
    ) -> Context:
        """The context of one call, whose time begins now.

        Args:
            now: unix seconds.
            log: the logger.
            mend: see `Context`.
            last_attempt: see `Context`.
            tasks: starts its tasks; None: they are done at once.
            place: see `Context`.
            overtakes: see `Context`.
        """
        self.ran = False
        self._mark = None
        deadline = time.monotonic() + self.timeout
        fetch = self._fetch(deadline, log)
        dry = self.would_run if self.dry_run else None
        run = Programs(deadline, log, self.stop, began=self._began, dry=dry)
        return Context(
            handler=self.handler,
            now=now,
            files=self.stage,
            store=self.store,
            log=log,
            run=run,
            nginx=self.nginx,
            mend=mend,
            dry_run=self.dry_run,
            generation=self.generation,
            fetch=fetch,
            task=tasks or _Inline(self, fetch, run, log),
            place=place,
            overtakes=overtakes,
            timeout=self.timeout,
            last_attempt=last_attempt,
            reload=self._ask_reload,
            states=self.states,
            make_scratch=cache(self.new_directory),
        )

    def for_next(self, context: Context) -> Context:
        """This context for the next method of the handler, which finds an empty scratch directory."""
        return replace(context, make_scratch=cache(self.new_directory))

    def _began(self) -> None:
        self.ran = True

    def new_directory(self) -> Path:
        """A new private directory, removed with the batch."""
        if self._room is None:
            raise TemporaryError("there is no scratch directory here")
        return self._room.make()

    def _ask_reload(self) -> None:
        self.reload = True

    def _fetch(self, deadline: float, log: Log) -> Fetch:
        if self.sources is None or self._room is None:
            return Fetch()
        return Fetcher(self.sources, self._room, deadline, log, self.stop)


@dataclass(frozen=True)
class _Inline(Tasks):
    """`Context.task` where nothing goes on beside a call, as in a dry run: it is done at once."""

    batch: Batch
    fetch: Fetch
    run: Run
    log: Log

    def __call__(self, key: str, work: Callable[[TaskContext], T]) -> Task[T]:
        """See `agentd.handler.Tasks`."""
        task = Task[T](key)
        task.run(lambda: work(self._context()))
        return task

    def _context(self) -> TaskContext:
        directory = self.batch.new_directory()
        return TaskContext(self.fetch, self.run, self.log, directory, dry_run=self.batch.dry_run)

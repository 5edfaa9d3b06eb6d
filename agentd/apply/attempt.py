"""One batch: what a handler's calls may touch until all of it is committed or dropped.

All that a call can reach (stage, store, processes) belongs to its batch and dies with it, so that a call that
was left behind at its time limit changes nothing.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentd.apply.outcome import Entry
from agentd.apply.process import run
from agentd.apply.sources import Fetcher, Sources
from agentd.apply.tree import Stage
from agentd.errors import TemporaryError
from agentd.handler import Completed, Context, Fetch, Log, NoFetch
from agentd.options import NginxOptions


@dataclass(frozen=True, slots=True)
class Kept:
    """One entry of a batch, and what its call did.

    Attributes:
        changed: it staged or stored something.
        ran: it ran a program.
        refused: why the handler refused it, or None.
    """

    entry: Entry
    changed: bool = False
    ran: bool = False
    refused: str | None = None


@dataclass
class Batch:
    """What is staged for one commit.

    Attributes:
        store: the handler's store, as its calls see and change it.
        generation: the generation that was current when the batch began.
        timeout: seconds that each call has.
        ground: what the batch stands on (see `Ledger.ground`).
        stop: ends the programs and the transfers of a call when it is set.
        sources: what its calls may fetch; None: nothing.
        started: unix time.
        kept: the entries that it holds so far, in order.
        would_run: what a dry run did not run.
    """

    handler: str
    stage: Stage
    store: dict[str, Any]
    nginx: NginxOptions
    generation: int
    timeout: float
    ground: int | None = None
    dry_run: bool = False
    stop: threading.Event | None = None
    started: float = 0.0
    sources: Sources | None = None
    kept: list[Kept] = field(default_factory=list)
    would_run: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ran = False
        self._room = self.sources.room() if self.sources else None
        if self._room:
            weakref.finalize(self, self._room.close)
        self._first = self._last = self._mark()

    @property
    def clean(self) -> bool:
        """Whether nothing is staged or stored that differs from the beginning."""
        return self._mark() == self._first

    @property
    def new_store(self) -> dict[str, Any] | None:
        """The store, if it differs from the beginning."""
        return None if self._mark()[1] == self._first[1] else self.store

    def keep(self, entry: Entry) -> None:
        """Let the entry, with what its call staged, be part of the commit.

        Raises:
            TypeError, ValueError: the store is not JSON.
        """
        mark = self._mark()
        self.kept.append(Kept(entry, changed=mark != self._last, ran=self._ran))
        self._last = mark

    def refuse(self, entry: Entry, reason: str) -> None:
        """Drop what the entry's call staged; its refusal stands once the entries before it are committed."""
        self.drop()
        self.kept.append(Kept(entry, refused=reason))

    def drop(self) -> None:
        """Drop what was staged and stored since the last entry that was kept."""
        self.stage.reset(self._last[0])
        self.store.clear()
        self.store.update(json.loads(self._last[1]))

    def _mark(self) -> tuple[Any, str]:
        return self.stage.mark(), json.dumps(self.store, sort_keys=True, allow_nan=False)

    def context(self, now: float, log: Log, *, last_attempt: bool = False) -> Context:
        """The context of one call, whose time begins now; `now` is unix seconds."""
        self._ran = False
        deadline = time.monotonic() + self.timeout
        return Context(
            handler=self.handler,
            now=now,
            files=self.stage,
            store=self.store,
            log=log,
            run=_Runner(self, deadline),
            nginx=self.nginx,
            dry_run=self.dry_run,
            generation=self.generation,
            fetch=self._fetch(deadline, log),
            last_attempt=last_attempt,
        )

    def _fetch(self, deadline: float, log: Log) -> Fetch:
        if self.sources is None or self._room is None:
            return NoFetch()
        return Fetcher(self.sources, self._room, deadline, log, self.stop)

    def note_run(self) -> None:
        """The call in hand runs a program."""
        self._ran = True


@dataclass(frozen=True, slots=True)
class _Runner:
    """`Context.run` of one call, which ends at `deadline` on the monotonic clock."""

    batch: Batch
    deadline: float

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        keep: int = 4096,
    ) -> Completed:
        if self.batch.dry_run:
            self.batch.would_run.append(tuple(argv))
            return Completed(0, b"", 0.0)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TemporaryError(f"no time is left to run {argv[0]}; raise the handler's timeout")
        self.batch.note_run()
        within = left if timeout is None else min(left, timeout)
        return run(argv, stdin=stdin, env=env, timeout=within, check=check, keep=keep, stop=self.batch.stop)

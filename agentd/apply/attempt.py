"""One batch of attempts: what a handler's calls may touch until it is committed or dropped.

A call runs in a thread of its own so that it can be left behind at its time limit; all that it can reach (stage,
store, processes) belongs to its batch and dies with it, so that a call left behind changes nothing.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from agentd.apply.outcome import Entry
from agentd.apply.process import run
from agentd.apply.tree import Stage
from agentd.errors import TemporaryError
from agentd.handler import Completed, Context, Log
from agentd.options import NginxOptions

T = TypeVar("T")
_BEAT: Final = 1.0


class LeftBehind(TemporaryError):
    """A call did not return within its time limit; its thread still runs."""

    def __init__(self, thread: threading.Thread, timeout: float) -> None:
        super().__init__(f"the handler did not return within {timeout:g} s")
        self.thread = thread


def limited(call: Callable[[], T], timeout: float, *, name: str, beat: Callable[[], None]) -> T:
    """Call in a daemon thread and return what it returns, or raise what it raises.

    Args:
        timeout: seconds until the call is left behind.
        beat: called about once a second meanwhile.

    Raises:
        LeftBehind: the time is over.
    """
    result: list[T] = []
    error: list[BaseException] = []

    def target() -> None:
        try:
            result.append(call())
        except BaseException as raised:  # noqa: BLE001 (carried to the caller's thread, whatever it is)
            error.append(raised)

    thread = threading.Thread(target=target, name=name, daemon=True)
    deadline = time.monotonic() + timeout
    thread.start()
    while thread.is_alive():
        left = deadline - time.monotonic()
        if left <= 0:
            raise LeftBehind(thread, timeout)
        beat()
        thread.join(min(left, _BEAT))
    if error:
        raise error[0]
    return result[0]


@dataclass
class Batch:
    """What is staged for one commit.

    Attributes:
        kept: entries that are part of it, each with whether it changed anything.
        ran: whether the call in hand ran a process.
    """

    handler: str
    stage: Stage
    store: dict[str, Any]
    nginx: NginxOptions
    generation: int
    timeout: float
    dry_run: bool = False
    stop: threading.Event | None = None
    started: float = 0.0
    kept: list[tuple[Entry, bool]] = field(default_factory=list)
    ran: bool = False
    would_run: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clean = self.mark()
        self._first_store = copy.deepcopy(self.store)

    @property
    def clean(self) -> bool:
        """Whether nothing was staged or stored."""
        return self.mark() == self._clean

    @property
    def new_store(self) -> dict[str, Any] | None:
        """The store, if it differs from before."""
        return None if self.store == self._first_store else self.store

    def mark(self) -> tuple[object, dict[str, Any]]:
        """What is staged now: equal marks, equal content."""
        return self.stage.mark(), copy.deepcopy(self.store)

    def reset(self, mark: tuple[object, dict[str, Any]]) -> None:
        """Drop what was staged since the mark."""
        self.stage.reset(mark[0])
        self.store.clear()
        self.store.update(copy.deepcopy(mark[1]))

    def context(self, now: float, log: Log) -> Context:
        """The context of one call, whose time begins now."""
        self.ran = False
        deadline = time.monotonic() + self.timeout

        def run_within(
            argv: Sequence[str],
            *,
            stdin: bytes = b"",
            env: Mapping[str, str] | None = None,
            timeout: float | None = None,
            check: bool = True,
        ) -> Completed:
            if self.dry_run:
                self.would_run.append(tuple(argv))
                return Completed(0, b"", 0.0)
            left = max(0.05, deadline - time.monotonic())
            self.ran = True
            return run(
                argv, stdin=stdin, env=env, timeout=left if timeout is None else min(left, timeout),
                check=check, stop=self.stop,
            )  # fmt: skip

        return Context(
            handler=self.handler,
            now=now,
            files=self.stage,
            store=self.store,
            log=log,
            run=run_within,
            nginx=self.nginx,
            dry_run=self.dry_run,
            generation=self.generation,
        )

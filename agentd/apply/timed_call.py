"""Calls into a handler, in a thread beside the worker's, so that one can be abandoned at its time limit.

It owns the threads, and knows nothing about what a call does: what a call may touch belongs to its batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NoReturn, TypeVar, cast

from agentd.apply.observer import Observer
from agentd.errors import TemporaryError

T = TypeVar("T")
_BEAT_EVERY: Final = 1.0


class TimedOut(TemporaryError):  # noqa: N818 (the name says what happened)
    """A call did not return within its time limit; its thread is still running."""

    def __init__(self, thread: threading.Thread, timeout: float) -> None:
        super().__init__(f"the handler did not return within {timeout:g} s")
        self.thread = thread


class _Runner:
    """A thread that runs one call after another: starting one for each would cost more than most calls."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._results: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def begin(self, call: Callable[[], object]) -> None:
        """Run this next."""
        self._calls.put(call)

    def result(self, timeout: float) -> tuple[object, BaseException | None]:
        """What it returned and what it raised; queue.Empty if it is still running after `timeout` seconds."""
        return self._results.get(timeout=timeout)

    def end(self) -> None:
        """End the thread once the current call has returned."""
        self._calls.put(_end)

    def _run(self) -> None:
        while (call := self._calls.get()) is not _end:
            try:
                self._results.put((call(), None))
            except BaseException as raised:  # noqa: BLE001 (carried to the caller's thread, whatever it is)
                self._results.put((None, raised))
            del call  # it holds the batch, which is to go with all that it staged and fetched


def _end() -> None:
    """In the queue, this ends the thread."""


def _raise(error: BaseException) -> NoReturn:
    """Raise it, but wrap what would silently end the worker, such as SystemExit."""
    if isinstance(error, Exception):
        raise error
    raise RuntimeError(f"the handler raised {type(error).__name__}") from error


class TimedCalls:
    """Calls one handler, one call at a time, in a thread that is kept for the next call."""

    def __init__(self, name: str, timeout: float, *, beat: Callable[[], None], observer: Observer) -> None:
        self._name = name
        self._timeout = timeout
        self._beat = beat
        self._observer = observer
        self._runner: _Runner | None = None
        self._abandoned: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a call that timed out is still running; until it returns, the handler gets no other."""
        if self._abandoned is not None and not self._abandoned.is_alive():
            self._abandoned = None
        return self._abandoned is not None

    def call(self, call: Callable[[], T]) -> T:
        """Call within the time limit, beating about once a second while it lasts.

        Raises:
            TimedOut: the time is up; `busy` says whether the call has returned since then.
            RuntimeError: the call tried to end the thread or the process.
            Exception: whatever the call raised.
        """
        began = time.monotonic()
        runner = self._runner or _Runner(f"handler {self._name} call")
        self._runner = None
        runner.begin(call)
        try:
            value, error = self._wait(runner, began + self._timeout)
        except TimedOut:
            self._abandoned = runner.thread
            runner.end()
            raise
        finally:
            self._observer.handled(self._name, time.monotonic() - began)
        self._runner = runner
        if error is not None:
            _raise(error)
        return cast("T", value)

    def close(self) -> None:
        """Let the thread end; a later call starts another."""
        if self._runner is not None:
            self._runner.end()
            self._runner = None

    def _wait(self, runner: _Runner, deadline: float) -> tuple[object, BaseException | None]:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(runner.thread, self._timeout)
            self._beat()
            try:
                return runner.result(min(left, _BEAT_EVERY))
            except Empty:
                continue

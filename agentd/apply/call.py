"""Calls into a handler, each in a thread of its own, so that one can be left behind at its time limit.

Owns the threads. It must not know what a call is about: what a call may touch is its batch's affair.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from agentd.apply.observer import Observer
from agentd.errors import TemporaryError

T = TypeVar("T")
_BEAT_EVERY: Final = 1.0


class LeftBehind(TemporaryError):  # noqa: N818 (the name says what happened)
    """A call did not return within its time limit; its thread still runs."""

    def __init__(self, thread: threading.Thread, timeout: float) -> None:
        super().__init__(f"the handler did not return within {timeout:g} s")
        self.thread = thread


def limited(call: Callable[[], T], timeout: float, *, name: str, beat: Callable[[], None]) -> T:
    """Call in a daemon thread and return what it returns, or raise what it raises.

    Args:
        call: what to call.
        timeout: seconds until the call is left behind.
        name: of the thread.
        beat: called about once a second meanwhile.

    Raises:
        LeftBehind: the time is over.
        RuntimeError: the call tried to end the thread or the process.
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
        thread.join(min(left, _BEAT_EVERY))
    if error:
        _raise(error[0])
    return result[0]


def _raise(error: BaseException) -> None:
    """Pass it on, unless it is one, such as SystemExit, that would end the worker without a word."""
    if isinstance(error, Exception):
        raise error
    raise RuntimeError(f"the handler raised {type(error).__name__}") from error


class Caller:
    """Calls one handler, one call at a time."""

    def __init__(self, name: str, timeout: float, *, beat: Callable[[], None], observer: Observer) -> None:
        self._name = name
        self._timeout = timeout
        self._beat = beat
        self._observer = observer
        self._left_behind: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a call that was left behind still runs; until it returns the handler takes no other."""
        if self._left_behind is not None and not self._left_behind.is_alive():
            self._left_behind = None
        return self._left_behind is not None

    def call(self, call: Callable[[], T]) -> T:
        """Call within the time limit.

        Raises:
            LeftBehind: the time is over; `busy` says whether it has returned since.
        """
        began = time.monotonic()
        try:
            return limited(call, self._timeout, name=f"handler {self._name} call", beat=self._beat)
        except LeftBehind as error:
            self._left_behind = error.thread
            raise
        finally:
            self._observer.handled(self._name, time.monotonic() - began)

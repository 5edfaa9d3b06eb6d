"""Signals as messages in the queue that a long-running command's main thread reads.

Owns the signal handlers while it is entered; all they do is put a message into the queue. What a signal means
is for the command to decide.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event
from types import FrameType, TracebackType
from typing import Any, Final, Self

from agentd.errors import AgentdError

ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""The signals that ask a command to end."""
BY_SIGNAL: Final = 128
"""What a shell adds to the number of the signal that ended a command."""
_LOOK: Final = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Message:
    """Something that happened: `kind` says what; the other fields depend on the kind."""

    kind: str
    text: str = ""
    number: int = 0
    error: AgentdError | None = None


class Signals:
    """A queue that receives signals, as Message("signal", number=...), while it is entered."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}
        # The only kind of queue whose `put` is reentrant: a signal handler may interrupt a `put`.
        self._messages: SimpleQueue[Message] = SimpleQueue()

    def put(self, message: Message) -> None:
        """Put, from any thread."""
        self._messages.put(message)

    def get(self) -> Message:
        """Wait for the next one.

        Python runs a signal's handler in the main thread only, and a signal does not wake that thread if the
        kernel gives it to another one, or if it comes just before the thread falls asleep: so it looks up.
        """
        while True:
            with suppress(Empty):
                return self._messages.get(timeout=_LOOK)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._messages.put(Message("signal", number=number))


def run_stoppable(work: Callable[[Event], int]) -> int:
    """Run `work` with an event that is set when it should stop; return its exit status.

    If a signal arrived and the work did not succeed nevertheless, the status is that of the signal. Whatever
    the work raises is raised here.
    """
    stop, by_signal = Event(), 0
    with ThreadPoolExecutor(1, "work") as thread, Signals(ENDING) as messages:
        future = thread.submit(work, stop)
        future.add_done_callback(lambda _: messages.put(Message("ended")))
        while not future.done():
            message = messages.get()
            if message.kind == "signal":
                by_signal = BY_SIGNAL + message.number
                stop.set()
        status = future.result()
    return by_signal if status and by_signal else status

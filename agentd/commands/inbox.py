"""What happens to a command that runs for long, as messages in one queue that its main thread reads.

Owns the signal handlers while it is open; they do nothing but put.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Self

from agentd.errors import AgentdError


@dataclass(frozen=True, slots=True)
class Message:
    """Something that happened: `kind` says what, the rest is there if that kind has it."""

    kind: str
    text: str = ""
    number: int = 0
    error: AgentdError | None = None


class Inbox:
    """A queue that signals go into, as Message("signal", number=...), as long as it is entered."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}
        # The only queue that may be put to by a handler that interrupts the very same put.
        self._messages: SimpleQueue[Message] = SimpleQueue()

    def put(self, message: Message) -> None:
        """Put, from any thread."""
        self._messages.put(message)

    def get(self) -> Message:
        """Wait for the next one."""
        return self._messages.get()

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

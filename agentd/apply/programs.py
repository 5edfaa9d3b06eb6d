"""The programs that a handler runs in a call or in a task: within what is left of its time, ended with it.

A dry run runs only those that change nothing, and notes that it would run the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentd.background import Background
from agentd.errors import TemporaryError
from agentd.handler import Completed, Log
from agentd.limits import Limits
from agentd.process import run


def _nothing() -> None:
    """What is noted of a program in a task."""


@dataclass(frozen=True, slots=True)
class Programs:
    """`Context.run`.

    Attributes:
        deadline: when the call or the task must end, on the monotonic clock.
        stop: ends the program once set.
        began: called when a program that may change something is about to start.
        dry: where a dry run notes what it would have run; None: it is no dry run.
    """

    deadline: float
    log: Log
    stop: threading.Event | None = None
    began: Callable[[], None] = _nothing
    dry: list[tuple[str, ...]] | None = None

    def __call__(  # noqa: PLR0913 (as `Run` has it)
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        keep: int = 4096,
        most: int | None = None,
        limits: Limits | None = None,
        background: Background | None = None,
        read_only: bool = False,
    ) -> Completed:
        """See `agentd.handler.Run`."""
        if self.dry is not None and not read_only:
            self.dry.append(tuple(argv))
            return Completed(0, b"", 0.0)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TemporaryError(f"no time is left to run {argv[0]}; raise the handler's timeout")
        if not read_only:
            self.began()
        within = left if timeout is None else min(left, timeout)
        return run(
            argv,
            stdin=stdin,
            env=env,
            timeout=within,
            check=check,
            keep=keep,
            most=most,
            limits=limits,
            stop=self.stop,
            background=background,
            left_behind=lambda pids: self._tell(argv[0], pids, background),
        )

    def _tell(self, program: str, pids: Sequence[int], background: Background | None) -> None:
        """Not the arguments, neither the program's nor theirs: they may be secret."""
        self.log.info("process.left_behind", program=program, pids=list(pids), ended=background == "end")

"""A command in a separate process group that does not outlive us, even if we are killed.

A small shell, the guard, leads the group. It reads from a pipe whose other end only we hold: if that closes
before a line arrives, we are dead, and the guard ends the group. As leader it also keeps the group's ID from
being reused. When to end the command, and why, is for the caller to decide.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agentd.errors import AgentdError

GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL, as in `consul lock`; the lock delay of 15 s covers them."""
_STEP: Final = 0.05
_REAP: Final = 5.0
_GUARD: Final = (
    "trap '' HUP INT QUIT TERM USR1 USR2 TSTP TTIN TTOU PIPE; echo; read -r _ && exit;"
    f" kill -TERM 0; kill -CONT 0; sleep {GRACE:g}; kill -KILL 0"
)


class Child:
    """One running command. Standard input is passed on unless it is a terminal.

    Args:
        argv: the program, found in PATH if it has no slash, and its arguments.
        environment: added to ours.
        on_exit: called once, from a thread, when the command itself has ended.

    Raises:
        AgentdError: it cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], on_exit: Callable[[], None]
    ) -> None:
        self._on_exit = on_exit
        self._exited = threading.Event()
        self._guard = _start_guard()
        try:
            self._process = subprocess.Popen(
                argv,
                # A terminal stops a background process group that reads from it.
                stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
                env={**os.environ, **environment},
                process_group=self._guard.pid,
            )
        except (OSError, ValueError) as error:
            self._dismiss_guard()
            reason = error.strerror if isinstance(error, OSError) else "a NUL byte in an argument"
            raise AgentdError(f"{argv[0]} cannot be started: {reason}") from error
        threading.Thread(target=self._wait, name="command", daemon=True).start()

    @property
    def status(self) -> int:
        """The exit status as a shell reports it: 128 plus the signal's number if a signal ended it."""
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Send a signal to the group; the guard ignores it."""
        with suppress(ProcessLookupError):
            os.killpg(self._guard.pid, number)

    def end(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL for what is left after `GRACE` seconds."""
        deadline = time.monotonic() + GRACE
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a stopped process would not handle it
        self._exited.wait(GRACE)
        self._dismiss_guard()
        while self._group_lives() and time.monotonic() < deadline:
            time.sleep(_STEP)
        self.signal(signal.SIGKILL)
        self._exited.wait(_REAP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """If the command has ended, let go: what it left running in the background is not touched."""
        if not self._exited.is_set():
            self.end()
        self._dismiss_guard()

    def _wait(self) -> None:
        self._process.wait()
        self._exited.set()
        self._on_exit()

    def _group_lives(self) -> bool:
        try:
            os.killpg(self._guard.pid, 0)
        except ProcessLookupError:
            return False
        # Where nobody reaps orphans (a container without an init), zombies keep the group alive.
        return any(_lives_in(self._guard.pid, file) for file in Path("/proc").glob("[0-9]*/stat"))

    def _dismiss_guard(self) -> None:
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(b"\n")
                self._guard.stdin.close()
            self._guard.wait(_REAP)


def _lives_in(group: int, stat: Path) -> bool:
    """Whether it is a process of that group and not a zombie (proc(5): state, parent, group)."""
    try:
        state, _, its_group = stat.read_bytes().rpartition(b")")[2].split()[:3]
    except OSError:  # it has just ended
        return False
    return int(its_group) == group and state not in b"ZX"


def _start_guard() -> subprocess.Popen[bytes]:
    """Start the guard, and wait until it ignores signals."""
    try:
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as error:
        raise AgentdError(f"/bin/sh cannot be started: {error.strerror}") from error
    if guard.stdout is not None:
        guard.stdout.readline()
        guard.stdout.close()
    return guard

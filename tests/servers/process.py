"""One server process of a test: started in the foreground, logged to a file, stopped by its process id."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.servers.waiting import PATIENCE, wait_until

_TAIL_BYTES = 4000


class ServerExitedError(RuntimeError):
    """The server ended before it was ready; the message has the end of its log."""


class ServerProcess:
    """A child process with a log file; it can be started again after it ended.

    Args:
        argv: program and arguments; the program must stay in the foreground.
        log: where standard output and error go, appended over restarts.
        environment: variables to add to (or, if None, to take out of) this process's own; may be changed
            before the next start.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, *, environment: Mapping[str, str | None] | None = None
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self.environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running (or last) process."""
        if self._process is None:
            raise RuntimeError(f"{self.argv[0]} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The exit status of the last process, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self, ready: Callable[[], object], *, seconds: float = PATIENCE) -> None:
        """Start the process and wait until `ready` returns something true.

        Raises:
            ServerExitedError: it ended instead.
            TimeoutError: it was not ready in time (it is killed then).
        """
        self.spawn()
        try:
            wait_until(lambda: self._alive() and ready(), f"{self.argv[0]} to be ready", seconds=seconds)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{error}\n{self.tail()}") from None

    def spawn(self) -> None:
        """Start the process without waiting for anything."""
        if self.running:
            raise RuntimeError(f"{self.argv[0]} is running already")
        added = {name: value for name, value in self.environment.items() if value is not None}
        kept = {name: value for name, value in os.environ.items() if name not in self.environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv, env=kept | added, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _alive(self) -> bool:
        if not self.running:
            raise ServerExitedError(f"{self.argv[0]} exited with {self.exit_status}:\n{self.tail()}")
        return True

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, which must be running."""
        os.kill(self.pid, number)

    def wait(self, *, seconds: float = PATIENCE) -> int:
        """Wait for the process to end by itself and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        if self._process is None:
            raise RuntimeError(f"{self.argv[0]} was never started")
        return self._process.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = PATIENCE) -> int | None:
        """Ask the process to end, kill it if it does not in time; return its exit status."""
        if self.running:
            self.send(number)
            try:
                self.wait(seconds=seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.exit_status

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would, and reap it."""
        if self.running:
            self.send(signal.SIGKILL)
            self.wait()

"""Runs one program to its end, within a time limit, in a separate process group.

It owns the process group (nothing in it outlives `run`, unless that is asked for), the pipes, and the
environment: the daemon's, with its tokens and sockets, is not passed on. It must not use a shell, and it
never logs: arguments and input may be secret.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import IO, Final, Self

from agentd.background import SINK, Background, Mark, end
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Completed
from agentd.limits import Limits

GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_INHERITED: Final = ("PATH", "HOME", "LANG", "TZ")
_DEFAULTS: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_REAP: Final = 5.0
_GONE: Final = 0.5
_STEP: Final = 0.01
_QUOTED: Final = 500
_CHUNK: Final = 65536
_STOP_POLL: Final = 0.1
_DRAIN: Final = 16
"""Chunks that are still read once the program has ended."""


def run(  # noqa: PLR0913 (a process has this many sides; all but one are named at the call)
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float,
    check: bool = True,
    keep: int = 4096,
    most: int | None = None,
    limits: Limits | None = None,
    stop: Event | None = None,
    background: Background | None = None,
    left_behind: Callable[[tuple[int, ...]], object] = bool,
) -> Completed:
    """Run `argv`, without a shell, and wait for it.

    Args:
        argv: the program, found in PATH if it has no slash, and its arguments.
        stdin: its standard input, which it need not read. It is a file in memory, so that the program gets
            all of it even if agentd is killed in between.
        env: added to a minimal environment (PATH, HOME, LANG, TZ); the daemon's is not passed on.
        timeout: seconds until the whole group is ended: by SIGTERM, and after `GRACE` seconds by SIGKILL.
        check: whether an exit status other than 0 is an error.
        keep: bytes of standard output and error to keep, from their end.
        most: bytes that it may print before it is ended; None for no limit.
        limits: for a program that does not limit itself; it, and what it starts, stays under them.
        stop: once set, the program is ended as if it had timed out.
        background: what becomes of processes that it leaves behind when it ends by itself. Those that are
            kept are not waited for, and what they print is dropped. With None, what is left of its group is
            ended, and nothing more is looked for.
        left_behind: called with their process ids, if there are any.

    Returns:
        The exit status (negative: the signal that ended it), the output and the duration in seconds.

    Raises:
        TemporaryError: it could not be started, timed out, was stopped, or (with `check`) failed.
        PermanentError: it printed more than `most`.
    """
    if stop is not None and stop.is_set():
        raise TemporaryError(f"{argv[0]} was not started because agentd is stopping")
    began = time.monotonic()
    mark = Mark() if background else None
    command = limits.command(argv) if limits else argv
    environment = _environment(env) | (mark.environment if mark else {})
    process = _start(command, environment, stdin, session=mark is not None)
    with _Pipes(process, keep, most) as pipes:
        reason = ""
        left: tuple[int, ...] = ()
        try:
            reason = pipes.pump(began + timeout, stop)
            if mark is not None and reason == "exit":
                process.poll()
                left = mark.left(process.pid)
        finally:
            if background == "keep" and reason == "exit":
                pipes.hand_over(living=bool(left))
            else:
                end(left, GRACE)
                _end_group(process, pipes)
        output = bytes(pipes.output)
    if left:
        left_behind(left)
    completed = Completed(process.returncode, output, time.monotonic() - began)
    if reason == "timeout":
        raise TemporaryError(f"{argv[0]} timed out after {timeout:g} s and was ended{quote(output)}")
    if reason == "stop":
        raise TemporaryError(f"{argv[0]} was ended because agentd is stopping")
    if reason == "output":
        raise PermanentError(f"{argv[0]} printed more than {most} bytes and was ended")
    if check and completed.returncode != 0:
        raise TemporaryError(f"{argv[0]} {completed.ending}{quote(output)}")
    return completed


def quote(output: bytes) -> str:
    """The end of an output, printable, to append to an error message; empty if there is none."""
    text = output.decode(errors="backslashreplace").strip()
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    if not text:
        return ""
    return f": {text}" if len(text) <= _QUOTED else f": ...{text[-_QUOTED:]}"


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**_DEFAULTS, **inherited, **(extra or {})}


def _start(
    argv: Sequence[str], env: dict[str, str], stdin: bytes, *, session: bool
) -> subprocess.Popen[bytes]:
    """Start it in a process group, and for `Mark` in a session, of its own.

    Python holds its lock until the new process has become the program, so that all of agentd waits for that.
    A new session has to share the processors with all others anew (sched_autogroup): on a busy machine that
    took up to 4 s, where a new group took 50 ms.
    """
    try:
        with os.fdopen(os.memfd_create("stdin"), "w+b") as source:
            source.write(stdin)
            source.seek(0)
            return subprocess.Popen(
                argv,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=session,
                process_group=None if session else 0,
            )
    except FileNotFoundError as error:
        raise TemporaryError(
            f"{argv[0]} cannot be started: {argv[0]} does not exist; install it or correct its path"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a NUL byte in an argument or variable"
        raise TemporaryError(f"{argv[0]} cannot be started: {reason}") from error


def _end_group(process: subprocess.Popen[bytes], pipes: _Pipes) -> None:
    """End what is left of the group: everything after a timeout, stray children after an exit."""
    deadline = time.monotonic() + GRACE
    process.poll()
    # Once the leader is reaped, the group's number stays taken only while a member lives.
    if not _signal_group(process.pid, signal.SIGTERM):
        return
    if process.returncode is None:
        pipes.pump(deadline)
    if process.poll() is None or not _is_gone(process.pid, deadline):
        _signal_group(process.pid, signal.SIGKILL)
        process.wait(_REAP)
        _is_gone(process.pid, time.monotonic() + _GONE)


def _is_gone(group: int, deadline: float) -> bool:
    """Wait until nothing is left of a group; zombies count as well."""
    while _signal_group(group, 0):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_STEP)
    return True


def _signal_group(group: int, number: int) -> bool:
    """Send a signal, or none for 0. False if nothing is left of the group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs as another user now; nothing more can be done
        return number != 0
    return True


class _Pipes:
    """The pipes of one running program, and the end of its output.

    Neither side can block the other: endless output is read but not kept, and a child that was left behind
    with the pipe open does not prolong the wait, because what counts is the end of the program itself (its
    pidfd).
    """

    def __init__(self, process: subprocess.Popen[bytes], keep: int, most: int | None = None) -> None:
        self.output = bytearray()
        self._keep, self._most, self._printed = keep, most, 0
        self._exited = os.pidfd_open(process.pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._exited, selectors.EVENT_READ, None)
        self._open: list[IO[bytes]] = []
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ, self._read)
            self._open.append(process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in list(self._open):
            self._close(pipe)
        self._selector.close()
        os.close(self._exited)

    def pump(self, deadline: float, stop: Event | None = None) -> str:
        """Move data until the program ends.

        Args:
            deadline: on the monotonic clock.
            stop: gives up once set.

        Returns:
            "exit" if the program ended, else the reason to stop waiting: "timeout", "stop" or "output".
        """
        while (left := deadline - time.monotonic()) > 0:
            if stop is not None and stop.is_set():
                return "stop"
            ready = self._selector.select(left if stop is None else min(left, _STOP_POLL))
            for key, _ in ready:
                if key.data is not None:
                    key.data(key.fileobj)
            exited = any(key.fd == self._exited for key, _ in ready)
            if exited:
                self._drain()
            if self._most is not None and self._printed > self._most:
                return "output"
            if exited:
                return "exit"
        return "timeout"

    def hand_over(self, *, living: bool) -> None:
        """The program has ended, and what it left behind may go on printing."""
        for pipe in self._open:
            if living and pipe.readable():
                descriptor = os.dup(pipe.fileno())
                if not SINK.take(descriptor):
                    os.close(descriptor)

    def _close(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        self._open.remove(pipe)
        with suppress(BrokenPipeError):
            pipe.close()

    def _read(self, pipe: IO[bytes]) -> bool:
        """Read one chunk; False if there is none now."""
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._close(pipe)
        self._printed += len(chunk)
        self.output += chunk
        del self.output[: max(0, len(self.output) - self._keep)]
        return bool(chunk)

    def _drain(self) -> None:
        """Read what the program printed last; bounded, since a child it left may print without end."""
        for pipe in self._open:
            if pipe.readable():
                for _ in range(_DRAIN):
                    if not self._read(pipe):
                        return

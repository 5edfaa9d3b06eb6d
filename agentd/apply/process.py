"""Runs one program to its end, within a time limit, in a process group of its own.

It owns the process group (nothing of it outlives `run`) and the environment (the daemon's own, with its
tokens and sockets, stays out of it). It must not use a shell, and it never logs: arguments and input may be
secret.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Final

from agentd.apply.pipes import Pipes
from agentd.errors import TemporaryError
from agentd.handler import Completed

GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_INHERITED: Final = ("PATH", "HOME", "LANG", "TZ")
_DEFAULTS: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_REAP: Final = 5.0
_GONE: Final = 0.5
_STEP: Final = 0.01
_QUOTED: Final = 500


def run(  # noqa: PLR0913 (a process has this many sides; all but one are named at the call)
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float,
    check: bool = True,
    cwd: Path | None = None,
    keep: int = 4096,
    stop: Event | None = None,
) -> Completed:
    """Run `argv` without a shell and wait for it.

    Args:
        argv: the program, found in PATH if it has no slash, and its arguments.
        stdin: what it may read; it need not.
        env: added to a minimal environment (PATH, HOME, LANG, TZ); the daemon's own is not passed on.
        timeout: seconds until the whole group is ended: SIGTERM, and SIGKILL after `GRACE` seconds.
        check: whether an exit status other than 0 is an error.
        cwd: the working directory; the daemon's own if None.
        keep: how many bytes of standard output and error, from their end, are kept.
        stop: once set, the program is ended as at the timeout.

    Returns:
        The exit status (negative: the signal that ended it), the output and the duration in seconds.
        Processes that the program left behind in its group are ended, too.

    Raises:
        TemporaryError: it could not be started, ran out of time, was stopped, or (with `check`) failed.
    """
    if stop is not None and stop.is_set():
        raise TemporaryError(f"{argv[0]} was not started because agentd stops")
    began = time.monotonic()
    process = _start(argv, _environment(env), cwd)
    with Pipes(process, stdin, keep) as pipes:
        try:
            reason = pipes.pump(began + timeout, stop)
        finally:
            _end_group(process, pipes)
        output = bytes(pipes.output)
    completed = Completed(process.returncode, output, time.monotonic() - began)
    if reason == "timeout":
        raise TemporaryError(f"{argv[0]} ran out of time after {timeout:g} s and was ended{quote(output)}")
    if reason == "stop":
        raise TemporaryError(f"{argv[0]} was ended because agentd stops")
    if check and completed.returncode != 0:
        raise TemporaryError(f"{argv[0]} {ending(completed)}{quote(output)}")
    return completed


def ending(completed: Completed) -> str:
    """How it ended, in words: "ended with status 3", "was ended by SIGSEGV"."""
    if completed.returncode >= 0:
        return f"ended with status {completed.returncode}"
    try:
        return f"was ended by {signal.Signals(-completed.returncode).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-completed.returncode}"


def quote(output: bytes) -> str:
    """The end of an output, printable, to follow an error message; empty if there is none."""
    text = output.decode(errors="backslashreplace").strip()
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    if not text:
        return ""
    return f": {text}" if len(text) <= _QUOTED else f": ...{text[-_QUOTED:]}"


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**_DEFAULTS, **inherited, **(extra or {})}


def _start(argv: Sequence[str], env: dict[str, str], cwd: Path | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = cwd if cwd is not None and not cwd.is_dir() else argv[0]
        raise TemporaryError(
            f"{argv[0]} cannot be started: there is no {missing}; install it or correct its path"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a NUL byte in an argument or variable"
        raise TemporaryError(f"{argv[0]} cannot be started: {reason}") from error


def _end_group(process: subprocess.Popen[bytes], pipes: Pipes) -> None:
    """End what is left of the group: all of it after a time-out, stray children after an exit."""
    deadline = time.monotonic() + GRACE
    process.poll()
    # Once the leader is reaped, only members that live on keep the number of the group taken.
    if not _signal_group(process.pid, signal.SIGTERM):
        return
    if process.returncode is None:
        pipes.pump(deadline)
    if process.poll() is None or not _is_gone(process.pid, deadline):
        _signal_group(process.pid, signal.SIGKILL)
        process.wait(_REAP)
        _is_gone(process.pid, time.monotonic() + _GONE)


def _is_gone(group: int, deadline: float) -> bool:
    """Wait until nothing is left of a group. Those that nobody has reaped yet count as left."""
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
    except PermissionError:  # it changed its user; nothing more can be done
        return number != 0
    return True

"""Processes that a program leaves behind when it ends, as `some-daemon &` in a script does.

It owns finding and ending them, and the reading end of what they print. A process is known by the session
that the program began, or, if it began one of its own, by a variable that it inherited.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, Literal, TypeAlias

Background: TypeAlias = Literal["keep", "end"]
"""What becomes of them: they live on, or they are ended with the program."""

VARIABLE: Final = "AGENTD_RUN"
_SETTLE: Final = 0.05
_CHUNK: Final = 65536
_PAUSE: Final = 0.01
_MOST: Final = 256


class Mark:
    """What the processes of one run of a program have in common; make it before the program starts."""

    def __init__(self) -> None:
        self._value = secrets.token_hex(8)
        self._variable = f"{VARIABLE}={self._value}".encode()
        self._began = _ticks()

    @property
    def environment(self) -> dict[str, str]:
        """For the program."""
        return {VARIABLE: self._value}

    def left(self, session: int) -> tuple[int, ...]:
        """The process ids of what runs on, ascending; what is just about to end is waited for a moment.

        Args:
            session: the process id of the program, which led its session.
        """
        found = tuple(sorted(self._find(session)))
        if found:
            time.sleep(_SETTLE)
            found = tuple(sorted(self._find(session)))
        return found

    def _find(self, session: int) -> Iterator[int]:
        own = str(os.getpid())
        for name in os.listdir("/proc"):  # noqa: PTH208 (a path object for each process would take longest)
            if not name.isdigit() or name == own:
                continue
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if not fields or fields[0] in (b"Z", b"X"):
                continue
            if int(fields[3]) == session or (int(fields[19]) >= self._began and self._marked(name)):
                yield int(name)

    def _marked(self, name: str) -> bool:
        return self._variable in _read(f"/proc/{name}/environ").split(b"\0")


def _read(path: str) -> bytes:
    """Empty if the process has ended, or is another user's whom agentd may not look into."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (as above)
            return file.read()
    except OSError:
        return b""


def end(pids: Sequence[int], grace: float) -> None:
    """End processes: by SIGTERM, and after `grace` seconds by SIGKILL."""
    handles = [handle for pid in pids if (handle := _handle(pid)) is not None]
    try:
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
            for handle in handles:
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, number)
            if _ended(handles, seconds):
                return
    finally:
        for handle in handles:
            os.close(handle)


def _handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _ended(handles: Sequence[int], seconds: float) -> bool:
    poll, waiting = select.poll(), set(handles)
    for handle in handles:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while waiting and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            waiting.discard(handle)
    return not waiting


class _Sink:
    """Reads and drops what background processes print: their pipe neither fills nor breaks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._open: set[int] = set()

    def take(self, descriptor: int) -> bool:
        """Read this one from now on, and close it at its end. False if there are too many already."""
        with self._lock:
            if len(self._open) >= _MOST:
                return False
            if self._epoll is None:
                self._epoll = select.epoll()
                threading.Thread(
                    target=self._run, args=(self._epoll,), name="background", daemon=True
                ).start()
            os.set_blocking(descriptor, False)
            self._open.add(descriptor)
            self._epoll.register(descriptor, select.EPOLLIN)
            return True

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for descriptor, _ in epoll.poll():
                try:
                    ended = not os.read(descriptor, _CHUNK)
                except BlockingIOError:
                    continue
                except OSError:
                    ended = True
                if ended:
                    with self._lock:
                        epoll.unregister(descriptor)
                        self._open.discard(descriptor)
                        os.close(descriptor)
            time.sleep(_PAUSE)  # one that prints without end waits for us, not we for it


SINK: Final = _Sink()
"""Of this process."""


def _ticks() -> int:
    """Now, in the unit in which /proc says when a process began."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) - 1

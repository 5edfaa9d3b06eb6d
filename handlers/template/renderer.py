"""Has templates rendered by the program beside the daemon, which it starts when it is first needed.

All template handlers of a process share the program. If it is gone, the next render starts another.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.handler import PermanentError, TemporaryError
from agentd.limits import OUT_OF_MEMORY
from handlers.template import wire

if TYPE_CHECKING:
    from handlers.template.templates import Template

_ANSWER: Final = 4 << 30  # bytes; the program keeps to the limit of the job
_PASSED_ON: Final = ("PATH", "LANG", "TZ")


@dataclass(frozen=True)
class Bounds:
    """What one render may use.

    Attributes:
        cpu: seconds of processor time.
        memory: bytes, beside what the program has.
        size: bytes of all files together.
        wall: seconds, however busy the machine is.
    """

    cpu: int
    memory: int
    size: int
    wall: float


class _EndedError(TemporaryError):
    """The program ended without an answer."""


class Renderer:
    """The program that renders, as threads of the daemon use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def render(
        self,
        templates: Sequence[Template],
        on: Sequence[Mapping[str, Any]],
        bodies: Sequence[str | None],
        bounds: Bounds,
    ) -> list[str]:
        """The content of each file.

        Args:
            templates: the templates.
            on: the items of `on`, their defaults filled in.
            bodies: the state of each as JSON; None for one that is not here.
            bounds: what it may use.

        Raises:
            PermanentError: a template is wrong, a value does not suit it, or it needs too much.
            TemporaryError: the program could not be started, or took too long on a busy machine.
        """
        job = {
            "templates": [asdict(one) for one in templates], "on": on, "most": bounds.size,
            "cpu": bounds.cpu, "memory": bounds.memory, "wall": bounds.wall,
        }  # fmt: skip
        states = ",".join("[false,null]" if one is None else f"[true,{one}]" for one in bodies)
        answer = self._ask(json.dumps(job).encode(), f"[{states}]".encode(), bounds.wall)
        if (code := answer.get("ended")) is not None:
            raise _ended(code, bounds)
        files: list[str] = answer["files"]
        return files

    def mistakes(
        self, templates: Sequence[Template], on: Sequence[Mapping[str, Any]], timeout: float
    ) -> list[list[str]]:
        """What is wrong with each template, found without any state. Raises as `render` does."""
        job = {"check": True, "templates": [asdict(one) for one in templates], "on": on}
        found: list[list[str]] = self._ask(json.dumps(job).encode(), b"", timeout)["mistakes"]
        return found

    def close(self) -> None:
        """End the program."""
        with self._lock:
            self._stop()

    def _ask(self, header: bytes, body: bytes, timeout: float) -> dict[str, Any]:
        try:
            answer = self._exchange(header, body, timeout)
        except _EndedError:  # killed since the last render
            with self._lock:
                self._stop()
            answer = self._exchange(header, body, timeout)
        if "error" in answer:
            raise PermanentError(answer["error"])
        return answer

    def _exchange(self, header: bytes, body: bytes, timeout: float) -> dict[str, Any]:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over(theirs)
            ours.settimeout(timeout)
            try:
                wire.send(ours, header)
                with suppress(BrokenPipeError, ConnectionResetError):  # it answered before it read the states
                    wire.send(ours, body)
                answer: dict[str, Any] = json.loads(wire.receive(ours, _ANSWER) or b"")
            except TimeoutError as error:
                raise TemporaryError(f"the templates were not rendered within {timeout:.0f} s") from error
            except (OSError, ValueError) as error:
                raise _EndedError("the program that renders ended unexpectedly") from error
        return answer

    def _hand_over(self, end: socket.socket) -> None:
        """Give the program one end of a connection; if it is gone, start another.

        Raises:
            TemporaryError: it cannot be started.
        """
        with self._lock:
            problem = ""
            for _ in range(2):
                try:
                    if self._control is None:
                        self._start()
                    if self._control is not None:
                        socket.send_fds(self._control, [b"r"], [end.fileno()])
                        return
                except OSError as error:
                    self._stop()
                    problem = error.strerror or type(error).__name__
            raise TemporaryError(f"the program that renders cannot be started: {problem}")

    def _start(self) -> None:
        control, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "handlers.template.program", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                process_group=0,
            )
        self._control = control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
                self._process = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


def _ended(code: int, bounds: Bounds) -> PermanentError | TemporaryError:
    """Why a render ended without an answer."""
    if code == OUT_OF_MEMORY:
        return PermanentError(
            f"rendering takes more than {bounds.memory >> 20} MB of memory: if it should, raise limits.memory"
        )
    if code == -signal.SIGXCPU:
        return PermanentError(
            f"rendering takes more than {bounds.cpu} s of processor time, as a regular expression or a loop"
            " over a large number can: if it should, raise limits.cpu"
        )
    if code == -signal.SIGALRM:
        return TemporaryError(f"the templates were not rendered within {bounds.wall:.0f} s")
    return TemporaryError(f"the program that renders ended unexpectedly, with {code}")


SHARED: Final = Renderer()
"""That of this process."""

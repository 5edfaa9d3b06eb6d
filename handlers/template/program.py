"""The program that renders, outside the daemon: values from outside may want any time and memory.

It starts once, imports Jinja2 and compiles the templates. Each render is a fork of it, under limits, and gone
afterwards: so a render costs milliseconds, and nothing of one, a secret least of all, is left for the next.
It ends when the daemon does, and what it renders then with it.

    python -I -m handlers.template.program FD       of the socket that brings a socket for each render
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from agentd.limits import OUT_OF_MEMORY, Limits
from handlers.template import wire

try:
    from handlers.template.rendering import Template, compiled, mistakes, rendered
    from handlers.template.values import TemplateError
except ModuleNotFoundError as error:
    _missing = str(error.name)
else:
    _missing = ""

_HEADER: Final = 64 << 20  # bytes
_BODY: Final = 1 << 30
_PATIENCE: Final = 5.0  # seconds for the templates, which the daemon sends at once
_COMPILING: Final = 60.0  # seconds of processor time in which the templates of one job are compiled
_PAGE: Final = os.sysconf("SC_PAGESIZE")
_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1


def serve(control: socket.socket) -> None:
    """Serve until the daemon closes the socket."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)  # noqa: FBT003 (its interface)
    wake.setblocking(False)  # noqa: FBT003 (likewise)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    renders: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _reap(renders)
        if control in ready:
            message, fds, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            client = socket.socket(fileno=fds[0])
            client.settimeout(_PATIENCE)
            signal.setitimer(
                signal.ITIMER_PROF, _COMPILING
            )  # it ends this program, and the daemon starts another
            try:
                _begin(client, renders)
            except OSError:  # the daemon gave it up
                client.close()
            signal.setitimer(signal.ITIMER_PROF, 0)


def _begin(client: socket.socket, renders: dict[int, socket.socket]) -> None:
    """Answer what needs no state; start a render for the rest."""
    header = wire.receive(client, _HEADER)
    job = json.loads(header or b"{}")
    try:
        if _missing:
            answer: dict[str, Any] | None = {"error": _needs(_missing)}
        elif job.get("check"):
            answer = {"mistakes": mistakes(_templates(job), job["on"])}
        else:
            _compiled(header)
            answer = None
    except TemplateError as error:
        answer = {"error": str(error)}
    if answer is not None:
        wire.send(client, json.dumps(answer).encode())
        client.close()
        return
    parent = os.getpid()
    pid = os.fork()
    if pid:
        renders[pid] = client
        return
    status = 1
    try:
        _stand_alone(client, parent)
        status = _render(client, header, job)
    finally:
        os._exit(status)


@lru_cache(maxsize=8)
def _compiled(header: bytes) -> list[Any]:
    job = json.loads(header)
    return compiled(_templates(job), job["on"])


def _templates(job: dict[str, Any]) -> list[Any]:
    return [Template(**one) for one in job["templates"]]


def _needs(module: str) -> str:
    return (
        f"templates need the Python package {module}: install what config/requirements/template.txt lists"
        " (docs/installing.md)"
    )


def _stand_alone(client: socket.socket, parent: int) -> None:
    """Keep nothing but the client open, so that all see when the others end; end when the parent does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    last = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
    os.closerange(3, client.fileno())
    os.closerange(client.fileno() + 1, last + 1)


def _render(client: socket.socket, header: bytes | None, job: dict[str, Any]) -> int:
    """Render in this process, under limits. Returns its exit status."""
    gc.disable()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job["wall"])
    memory = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE + job["memory"]
    Limits(memory=memory, cpu=job["cpu"], file=0).apply(for_good=True)
    client.settimeout(None)
    try:
        bodies = wire.receive(client, _BODY)
        states = json.loads(bodies or b"[]")
        answer: dict[str, Any]
        made = _compiled(header)
        answer = {"files": rendered(_templates(job), made, job["on"], states, job["most"])}
    except TemplateError as error:
        answer = {"error": str(error)}
    except MemoryError:
        return OUT_OF_MEMORY
    wire.send(client, json.dumps(answer).encode())
    return 0


def _reap(renders: dict[int, socket.socket]) -> None:
    """Say of renders that ended without an answer how they did."""
    for pid in list(renders):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            client = renders.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code:
                with suppress(OSError):  # the daemon gave it up
                    wire.send(client, json.dumps({"ended": code}).encode())
            client.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))

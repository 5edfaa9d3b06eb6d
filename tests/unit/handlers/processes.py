"""Processes that look like nginx's in /proc: a master with workers, some of them draining."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import kill  # by name: a test may have replaced `os.kill`
from pathlib import Path

_SCRIPT = """\
for title; do (exec -a "$title" sleep 60) & done
exec -a "$MASTER" sleep 60
"""
_PATIENCE = 60.0


@contextmanager
def pretended_nginx(
    pid_file: Path, *, active: int = 0, draining: int = 0, options: str | None = None
) -> Iterator[int]:
    """Run a master with so many workers and write its pid file; yields its pid. SIGHUP ends it.

    The master reads the nginx.conf beside its pid file, unless it has other `options`.
    """
    options = f"-c {pid_file.parent}/nginx.conf" if options is None else options
    titles = ["nginx: worker process"] * active + ["nginx: worker process is shutting down"] * draining
    # Under nohup all of them would ignore SIGHUP, and bash cannot take back what it inherited.
    shell = ["env", "--default-signal=HUP", "bash", "-c", _SCRIPT, "bash"]
    master = subprocess.Popen(
        [*shell, *titles, "nginx: cache manager process"],
        env={**os.environ, "MASTER": f"nginx: master process nginx {options}".strip()},
        start_new_session=True,
    )
    children: list[int] = []
    try:
        _wait_until_named(master.pid)
        children = _children(master.pid)
        pid_file.write_text(f"{master.pid}\n")
        yield master.pid
    finally:
        for pid in (*children, master.pid):
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        master.wait(60)


def _wait_until_named(pid: int) -> None:
    """Until all of them have started the program whose name they show."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        named = [_title(each).startswith(b"nginx: ") for each in (pid, *_children(pid))]
        if all(named):
            return
        time.sleep(0.002)
    raise TimeoutError("the processes did not start")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()

"""Runs a command and fails if it leaves processes behind: `python -m tests.servers.leftovers COMMAND...`.

Owns the promise that a test run leaves nothing running. It becomes the reaper of every orphan below it
(prctl(2), PR_SET_CHILD_SUBREAPER), so that a daemon cannot escape by forking twice; it must not touch any
process that is not its descendant.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 5.0


def become_reaper() -> None:
    """Have orphaned descendants become children of this process.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def wait_for(pid: int) -> int:
    """Reap children until `pid` ends; return its exit status as a shell would give it."""
    while True:
        reaped, status = os.wait()
        if reaped == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def reap_finished() -> bool:
    """Reap what has ended; return whether any child is still running."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def children() -> dict[int, str]:
    """Return this process's running children: process id to command line."""
    me = os.getpid()
    listed = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    return {int(pid): _command_line(pid) for pid in listed}


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"


def end_leftovers() -> dict[int, str]:
    """Wait a moment for stragglers, kill the rest, and return what had to be killed."""
    patience = time.monotonic() + _GRACE_SECONDS
    while reap_finished() and time.monotonic() < patience:
        time.sleep(0.05)
    killed: dict[int, str] = {}
    # Killing a parent hands us its children, hence more than one round; the deadline bounds them.
    while reap_finished() and time.monotonic() < patience + _GRACE_SECONDS:
        for pid, command_line in children().items():
            killed[pid] = command_line
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return killed


def main(argv: list[str]) -> int:
    """Run `argv`; return its exit status, or 1 if it passed and left something running."""
    become_reaper()
    # The terminal's Ctrl-C reaches the command too; we stay to see that it cleans up.
    pid = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=[signal.SIGINT])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = wait_for(pid)
    killed = end_leftovers()
    for leftover, command_line in killed.items():
        sys.stderr.write(f"left running, now killed: {leftover} {command_line}\n")
    return status or int(bool(killed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

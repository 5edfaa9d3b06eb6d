"""Runs a command and fails if it leaves anything behind: `python -m tests.servers.leftovers COMMAND...`.

Owns the promise that a test run leaves no process and no file. It becomes the reaper of every orphan below it
(prctl(2), PR_SET_CHILD_SUBREAPER), so that a daemon cannot escape by forking twice, and gives the command a
temporary directory of its own. It must not touch a process that is not its descendant, nor a file elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 10.0


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


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory for the command's temporary files, removed at the end with whatever is in it.

    Its name is short, for the sake of unix sockets, and other users (nginx's workers) may enter it.
    """
    made = Path(tempfile.mkdtemp(prefix="t-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        for directory, _, _ in os.walk(made):
            Path(directory).chmod(0o755)  # or an ordinary user could not empty it
        shutil.rmtree(made)


def left_files(directory: Path) -> list[str]:
    """What the command left in its temporary directory; pytest's own `tmp_path`s are pytest's to keep."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("pytest-of-"))


def run(argv: list[str]) -> int:
    """Run `argv`; return its exit status, or 1 if it passed and left something behind."""
    with temporary_directory() as directory:
        environment = os.environ | {"TMPDIR": str(directory)}
        pid = os.posix_spawnp(argv[0], argv, environment, setsigdef=[signal.SIGINT])
        # The terminal's Ctrl-C reaches the command too, `kill` does not; we stay until all is cleaned up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
        status = wait_for(pid)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what remains to be done is bounded
        killed = end_leftovers()
        left = left_files(directory)
    for leftover, command_line in killed.items():
        sys.stderr.write(f"left running, now killed: {leftover} {command_line}\n")
    for name in left:
        sys.stderr.write(f"left in the temporary directory, now removed: {name}\n")
    return status or int(bool(killed or left))


def main(argv: list[str]) -> int:
    """Run `argv` as its reaper; return what the shell is to see."""
    become_reaper()
    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

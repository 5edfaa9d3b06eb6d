"""A network of its own for a test: nothing in it is this machine's, and all of it goes with the test.

Python has no `os.unshare` before 3.12, so libc is called.

Source: unshare(2), setns(2)
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.servers.equipment import require_root

_CLONE_NEWNET: Final = 0x4000_0000
_MINE: Final = Path("/proc/thread-self/ns/net")
_SECONDS: Final = 120


class Network:
    """What `new_network` yields."""

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a program in the network to its end; return what it printed. It must succeed."""
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def new_network() -> Iterator[Network]:
    """Have this thread, and the programs that it starts, live in a new network for a while."""
    require_root("make a network for a thread of its own")
    libc = ctypes.CDLL(None, use_errno=True)
    with _MINE.open("rb") as before:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network can be made")
        try:
            yield Network()
        finally:
            if libc.setns(before.fileno(), _CLONE_NEWNET):
                os._exit(1)  # no test may go on in the wrong network

"""Failures at a chosen system call: the n-th call that changes the file system raises, or never returns."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

CALLS = ("open", "link", "symlink", "mkdir", "rename", "unlink", "rmdir", "chmod", "fchmod", "fsync")


CHANGING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@contextmanager
def fault(step: int, strike: Callable[[str], None], *, changes: bool = False) -> Iterator[list[str]]:
    """Call `strike` in the place of call number `step` (from 1). Yields the names of the calls so far.

    Nothing is really synced: what a kill leaves in the page cache is still there.

    Args:
        step: the number of the call.
        strike: called with its name.
        changes: count only calls that change something; before any other, all is as before the next such one.
    """
    calls: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 (any function of os)
            if changes and (name == "fsync" or (name == "open" and not arguments[1] & CHANGING)):
                return None if name == "fsync" else real(*arguments, **named)
            calls.append(name)
            if len(calls) == step:
                strike(name)
            return None if name == "fsync" else real(*arguments, **named)

        return call

    with ExitStack() as patched:
        for name in CALLS:
            patched.enter_context(patch.object(os, name, wrap(name, getattr(os, name))))
        yield calls


def failing(number: int) -> Callable[[str], None]:
    """A strike that fails with this errno."""

    def strike(name: str) -> None:
        raise OSError(number, os.strerror(number), f"<{name}>")

    return strike


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process of its own that is killed at the `step`-th call that changes something.

    Returns:
        Whether it was killed, and not done before.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with fault(step, lambda _: os.kill(os.getpid(), signal.SIGKILL), changes=True):
                work()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        return True
    assert os.WEXITSTATUS(ended) == 0, "the work failed in the child"
    return False

"""A deploy killed at any line of the exchange: afterwards `dest` is the old one or the new one, whole."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from handlers.deploy import swap as module
from handlers.deploy.swap import Swap, recover
from tests.unit.handlers.deploy.deploying import contents, place_of
from tests.unit.handlers.deploy.test_swap import NEW, OLD, deploy, fill, no_exchange, put

NEVER = 10_000
MOST_LINES = 600


def flip_and_die(dest: Path) -> None:
    """A deploy that is killed while its `post` commands run."""
    with place_of(dest) as place, Swap(place) as swap:
        swap.flip(put(swap))
        os.kill(os.getpid(), signal.SIGKILL)


def recovered(dest: Path) -> bool:
    """Undo what is left; whether there was anything."""
    with place_of(dest) as place:
        return recover(place)


def die_at(line: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before line number `line` of the module; whether it was."""
    child = os.fork()
    if child == 0:
        left = [line]

        def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 (sys.settrace's own)
            if frame.f_code.co_filename != module.__file__:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "first"])
def test_killed_at_any_line_it_is_whole_after_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: object, exchanges: object
) -> None:
    """`dest` is the old one or, once confirmed, the new one; and the next deploy works."""
    if not exchanges:
        monkeypatch.setattr(module, "exchange", no_exchange)
    found: set[str] = set()
    for line in range(MOST_LINES):
        dest = tmp_path / str(line)
        if there:
            fill(dest, b"old")
        killed = die_at(line, partial(deploy, dest))
        recovered(dest)
        found.add(str(contents(dest) if dest.exists() else None))
        assert not dest.with_name(f".agentd-{line}").exists()
        if not killed:
            break
    else:
        pytest.fail("it never came to its end")
    assert line > 40
    assert found == {str(OLD if there else None), str(NEW)}


def test_killed_at_any_line_of_the_recovery_it_is_recovered_again(tmp_path: Path) -> None:
    """However often."""
    for line in range(MOST_LINES):
        dest = fill(tmp_path / str(line), b"old")
        die_at(NEVER, partial(flip_and_die, dest))
        before = contents(dest)
        killed = die_at(line, partial(recovered, dest))
        recovered(dest)
        assert (before, contents(dest)) == (NEW, OLD)
        if not killed:
            return
    pytest.fail("it never came to its end")


def test_a_dest_that_somebody_else_replaced_is_not_touched(tmp_path: Path) -> None:
    """A flip that was never undone says nothing about what came later."""
    dest = fill(tmp_path / "app", b"old")
    die_at(NEVER, partial(flip_and_die, dest))
    flipped = contents(dest)
    dest.rename(dest.with_name("theirs"))
    fill(dest, b"by hand")

    undone = recovered(dest)

    assert flipped == NEW
    assert not undone
    assert contents(dest) == {"file": b"by hand"}

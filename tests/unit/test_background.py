"""Processes that a program leaves behind: found, kept or ended, and never waited for."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import process
from agentd.background import Background
from agentd.errors import TemporaryError
from agentd.process import run
from tests.servers.waiting import wait_until
from tests.unit.test_process import lives

WAYS = {
    "in the background": "sleep 300 &",
    "with nohup": "nohup sleep 300 >/dev/null 2>&1 &",
    "in a session of its own": "setsid sleep 300 &",
    "twice forked": "(setsid sh -c 'sleep 300 & echo; exit 0' &) ; sleep 0.2",
    "with job control": "set -m; sleep 300 &",
    "two": "sleep 300 & sleep 300 &",
}


@pytest.fixture
def found() -> Iterator[list[int]]:
    """The process ids that were reported; what lives of them at the end is killed."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


def shell(line: str, background: Background | None, found: list[int]) -> bytes:
    """What it printed."""
    done = run(["sh", "-c", line], timeout=60, background=background, left_behind=found.extend)
    return done.output


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_behind_lives_and_is_reported(way: str, found: list[int]) -> None:
    """However it was started, and without waiting for it."""
    began = time.monotonic()

    shell(f"{WAYS[way]}\necho started", "keep", found)

    assert time.monotonic() - began < 30
    assert len(found) == (2 if way == "two" else 1)
    assert all(lives(pid) for pid in found)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_behind_is_ended_if_that_is_asked_for(way: str, found: list[int]) -> None:
    """It is reported as well."""
    shell(WAYS[way], "end", found)

    assert found
    wait_until(lambda: not any(lives(pid) for pid in found), "them to end")


def test_what_ignores_sigterm_is_killed(found: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a grace."""
    monkeypatch.setattr(process, "GRACE", 0.1)
    script = "import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(300)"

    shell(f"setsid {sys.executable} -c '{script}' & sleep 0.5", "end", found)

    assert found
    wait_until(lambda: not any(lives(pid) for pid in found), "them to end")


def test_nothing_is_reported_if_nothing_is_left(found: list[int]) -> None:
    """Neither for a program that waits for its children, nor for a pipeline."""
    shell("sleep 0.01 & wait; seq 10000 | tail -n 1", "keep", found)

    assert found == []


def test_other_processes_of_the_machine_are_not_taken_for_its_own(found: list[int]) -> None:
    """Two programs that run at the same time have nothing to do with each other."""
    others: list[int] = []
    shell("sleep 300 & setsid sleep 300 &", "keep", others)
    try:
        shell("true", "end", found)
        assert found == []
        assert all(lives(pid) for pid in others)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)


def test_what_is_kept_may_print(found: list[int], tmp_path: Path) -> None:
    """Its pipe is read for as long as it has it: it does not die of writing, nor wait."""
    count, go = tmp_path / "count", tmp_path / "go"
    os.mkfifo(go)
    prints = f"for n in $(seq 200); do head -c 10000 /dev/zero; echo $n > {count}; done"

    output = shell(f"echo first; (read line < {go}; {prints}; sleep 300) &", "keep", found)
    go.write_text("the program has ended\n")

    assert output == b"first\n"
    wait_until(lambda: count.exists() and count.read_text().strip() == "200", "all of it to be printed")
    assert any(lives(pid) for pid in found)


def test_a_program_that_runs_out_of_time_leaves_nothing(tmp_path: Path) -> None:
    """It did not end by itself, so nobody asked for anything to stay."""
    alive = tmp_path / "pid"

    with pytest.raises(TemporaryError, match="timed out"):
        run(["sh", "-c", f"sleep 300 & echo $! > {alive}; wait"], timeout=2.0, background="keep")

    wait_until(lambda: not lives(int(alive.read_text())), "it to end")


def test_a_program_that_fails_may_leave_something(found: list[int]) -> None:
    """As with `consul watch`."""
    with pytest.raises(TemporaryError, match="status 3"):
        shell("sleep 300 & exit 3", "keep", found)

    assert len(found) == 1
    assert lives(found[0])

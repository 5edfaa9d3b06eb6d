"""Programs of `command` under kills, time limits and a full disk: none runs more often than it must."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_faults import fill, small_disk
from tests.servers.fleet import Node
from tests.servers.waiting import wait_until
from tests.unit.test_process import lives

EVENTS = 40
KILLS = 8


def program(event: str, shell: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 (the entry's)
    """The `handlers:` section with one program."""
    entry = {"use": "command", "on": [{"event": event}], "options": {"shell": shell}}
    return {"program": entry | options}


def runs(file: Path) -> Counter[str]:
    """How often each payload's program ran to its end, or began."""
    return Counter(file.read_text().split()) if file.exists() else Counter()


def test_a_kill_repeats_one_program_at_most(new_node: Callable[..., Node], suffix: str) -> None:
    """40 programs under 8 kills: each ran, and no kill made more than the one that was running run again."""
    name = f"program{suffix}"
    node = new_node(handlers={})
    file = node.directory / "runs"
    node.configure(program(name, f'echo "$AGENTD_CHANGE_ID" >> {file}; sleep 0.03'))
    fired = [node.fire(name, str(number).encode()) for number in range(EVENTS)]
    chance = random.Random(8)
    node.agentd.start()
    for _ in range(KILLS):
        wait_until(partial(_goes_on, node, file, runs(file).total()), "a program to begin")
        time.sleep(chance.uniform(0.0, 0.1))
        node.agentd.kill()
        node.agentd.process.spawn()
    wait_until(partial(_all_ended, node), "all outcomes", pause=0.2)

    assert set(runs(file)) == set(fired)
    assert runs(file).total() <= EVENTS + KILLS
    assert {row["outcome"] for row in node.history("program")} == {"applied"}


def _goes_on(node: Node, file: Path, begun: int) -> bool:
    return runs(file).total() > begun or _all_ended(node)


def _all_ended(node: Node) -> bool:
    ended = [row for row in node.history("program") if row["outcome"]]
    return len(ended) == EVENTS


def test_a_hanging_program_repeats_itself_alone(new_node: Callable[..., Node], suffix: str) -> None:
    """Its neighbours, which waited with it, run once each."""
    name = f"program{suffix}"
    node = new_node(handlers={})
    file = node.directory / "runs"
    shell = f'read -r line; echo "$AGENTD_CHANGE_ID" >> {file}; case $line in *aGFuZw==*) sleep 600;; esac'
    node.configure(
        program(name, shell, timeout="3s", retry={"attempts": 3, "first": "100ms", "longest": "200ms"})
    )
    fired = [node.fire(name, payload) for payload in (b"a", b"b", b"hang", b"c", b"d")]
    node.agentd.start()
    wait_until(
        lambda: sum(bool(row["outcome"]) for row in node.history("program")) == len(fired), "all outcomes"
    )

    assert [runs(file)[one] for one in fired] == [1, 1, 3, 1, 1]
    assert [node.outcome(one)["outcome"] for one in fired] == ["applied", "applied", "failed"] + 2 * [
        "applied"
    ]


def test_no_program_runs_while_the_state_is_full(new_node: Callable[..., Node], suffix: str) -> None:
    """What came before the disk was full waits for room, and then runs once."""
    name = f"program{suffix}"
    node = new_node(handlers={})
    file, gate = node.directory / "runs", node.directory / "gate"
    node.configure(
        program(name, f'echo "$AGENTD_CHANGE_ID" >> {file}; until [ -e {gate} ]; do sleep 0.05; done')
    )
    with small_disk(node.directory / "state", "2m"):
        node.agentd.start()
        fired = [node.fire(name, str(number).encode()) for number in range(20)]
        wait_until(lambda: len(node.history("program")) == len(fired), "all to be journalled")
        wait_until(lambda: runs(file).total() == 1, "the first program to begin")
        filler = node.directory / "state" / "filler"
        fill(filler)
        gate.touch()
        wait_until(
            lambda: any("unrecorded" in line or "worker.failed" in line for line in node.agentd.log_lines()),
            "the complaint",
        )
        filler.unlink()
        wait_until(lambda: all(row["outcome"] for row in node.history("program")), "all outcomes")
        node.stop()

    assert runs(file) == Counter(fired)


@pytest.mark.parametrize("background", ["keep", "end"])
def test_what_a_program_leaves_behind(new_node: Callable[..., Node], suffix: str, background: str) -> None:
    """It lives on, or is ended, as asked for; it is logged, and the change does not wait for it."""
    name = f"program{suffix}"
    node = new_node(handlers={})
    file = node.directory / "pid"
    section = program(name, f"setsid sleep 300 & echo $! > {file}")
    section["program"]["options"]["background"] = background
    node.configure(section)
    node.agentd.start()
    assert node.outcome(node.fire(name, b""))["outcome"] == "applied"
    pid = int(file.read_text())
    try:
        (line,) = [line for line in node.agentd.log_lines() if "process.left_behind" in line]
        assert str(pid) in line
        assert "sleep" not in line  # an argument may be secret
        wait_until(lambda: lives(pid) == (background == "keep"), "the word to come true")
        node.agentd.stop()
        assert lives(pid) == (background == "keep")
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def memory_limit(pid: int, size: int) -> Iterator[None]:
    """Put a process and its future children under a limit, as systemd does for MemoryMax."""
    root = Path("/sys/fs/cgroup")
    old = root / "memory"
    group = (old if old.is_dir() else root) / f"agentd-test-{pid}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(pid))
        (group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(str(size))
    except OSError as error:
        pytest.skip(f"memory cannot be limited here: {error}")
    try:
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


def test_a_program_killed_for_its_memory_ends_alone(new_node: Callable[..., Node], suffix: str) -> None:
    """With `OOMPolicy=continue` the daemon goes on, and the outcome names the signal."""
    hungry, name = f"{sys.executable} -c 'bytearray(600_000_000)'", f"program{suffix}"
    shell = f"grep -q bGl0dGxl || exec {hungry}"  # base64 of little, in the event as Consul lists it
    node = new_node(handlers=program(name, shell, retry={"attempts": 1})).start()
    with memory_limit(node.agentd.process.pid, 300 << 20):
        failed = node.outcome(node.fire(name, b"much"))
        applied = node.outcome(node.fire(name, b"little"))

    assert (failed["outcome"], applied["outcome"], applied["reason"]) == ("failed", "applied", "")
    assert "was ended by SIGKILL" in failed["reason"]
    assert node.agentd.get("/healthz")[0] == 200

"""The limits of a program: what it may use, how its end tells which one it hit, who is not under them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.limits import OUT_OF_MEMORY, Limits
from agentd.process import run

MB = 2**20
LIMITED = """
import subprocess, sys
from agentd.limits import Limits
with Limits(memory=256 << 20, cpu=1, file=1000, alone={alone}).applied():
    {work}
"""
SHOWN = "cat /proc/self/limits"


def limited(work: str, *, alone: bool = False) -> subprocess.CompletedProcess[bytes]:
    """A program of agentd's own that does this work under limits."""
    program = LIMITED.format(work=work, alone=alone)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)


def soft(shown: bytes) -> dict[str, str]:
    """The soft limits, from /proc/PID/limits."""
    return dict(re.findall(r"^(Max [a-z ]+?) {2,}(\S+)", shown.decode(), re.MULTILINE))


@pytest.mark.parametrize(
    "work", ["bytearray(1 << 30)", "raise MemoryError", "import mmap; mmap.mmap(-1, 1 << 30)"]
)
def test_too_little_memory_ends_in_a_status_of_its_own(work: str) -> None:
    """However the shortage shows, it is told apart from every other failure."""
    done = limited(work)

    assert done.returncode == OUT_OF_MEMORY
    assert Limits(memory=256 * MB).exceeded(done.returncode) == "more than 256 MB of memory"


def test_a_file_that_is_too_long_ends_in_its_signal(tmp_path: Path) -> None:
    """Also in a program that knows nothing of limits."""
    limits = Limits(file=1000)
    argv = ["dd", "if=/dev/zero", f"of={tmp_path}/long", "bs=2000", "count=1"]
    done = run(argv, limits=limits, timeout=60, check=False)

    assert limits.exceeded(done.returncode) == "a file of more than 1000 bytes"


def test_too_much_processor_time_ends_in_its_signal() -> None:
    """A loop without end is over after a second of processor time."""
    done = limited("while True: pass")

    assert Limits(cpu=1).exceeded(done.returncode) == "more than 1 s of processor time"


@pytest.mark.parametrize("work", ["sys.exit(3)", "raise OSError(2, 'gone')", "sys.exit(0)"])
def test_another_end_is_no_limit(work: str) -> None:
    """What ends a program for another reason is not said to be a limit."""
    assert not Limits(memory=256 * MB, cpu=1).exceeded(limited(work).returncode)


def test_a_file_that_is_too_long_is_an_error_of_the_program() -> None:
    """A write beyond the limit fails, and the program can say so."""
    done = limited("open('/dev/shm/agentd-test-limits', 'wb', 0).write(b'x' * 2000) == 1000 or sys.exit(9)")

    assert done.returncode == 0


def test_what_a_limited_program_asks_is_not_limited() -> None:
    """A program that it starts has the limits from before."""
    before = soft(subprocess.run(["/bin/sh", "-c", SHOWN], capture_output=True, check=True).stdout)

    done = limited(f"subprocess.run({SHOWN.split()!r}, check=True)")

    assert soft(done.stdout) == before


def test_a_program_that_knows_no_limits_is_put_under_them() -> None:
    """It runs with them from its first instruction, and so does what it starts."""
    done = run(["/bin/sh", "-c", SHOWN], timeout=60, limits=Limits(memory=512 * MB, cpu=7))

    shown = soft(done.output)
    assert (shown["Max address space"], shown["Max cpu time"]) == (str(512 * MB), "7")


def test_a_program_without_limits_has_those_of_the_daemon() -> None:
    """Nothing of agentd's own limits gets into a program of the operator's."""
    mine = soft(Path("/proc/self/limits").read_bytes())

    assert soft(run(["/bin/sh", "-c", SHOWN], timeout=60).output) == mine


def test_a_limited_program_that_does_not_exist_is_reported_as_such() -> None:
    """The message says what cannot be started."""
    done = run(["/no/such/program"], timeout=60, limits=Limits(cpu=7), check=False)

    assert done.returncode == 127
    assert b"/no/such/program cannot be started: No such file or directory" in done.output


def test_a_limited_program_can_be_ended_by_a_broken_pipe() -> None:
    """It does not inherit what Python ignores: SIGPIPE ends `yes` as anywhere else."""
    done = run(["/bin/sh", "-c", "yes | head -1"], timeout=60, limits=Limits(cpu=7))

    assert done.output == b"y\n"

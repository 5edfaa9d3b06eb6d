"""The program for long lists does exactly the work that the daemon does for short ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import pytest

from agentd.handler import Completed, Context, TemporaryError
from agentd.limits import Limits
from handlers.ip_blacklist import child
from handlers.ip_blacklist.child import Job
from handlers.ip_blacklist.compile import CompileJob, Report, compile_list
from handlers.ip_blacklist.exemptions import Exemptions
from handlers.ip_blacklist.outputs import OutputsJob
from handlers.ip_blacklist.ranges import IPV4, IPV6
from tests.messy import messy

NEVER = Exemptions(["198.51.100.0/24"])


def run(kind: str, job: Job) -> None:
    """Run the program as the handler does, with nothing in its environment."""
    subprocess.run(
        [sys.executable, "-I", "-m", "handlers.ip_blacklist.child", kind, str(2**30), "30"],
        input=json.dumps(asdict(job)).encode(),
        env={},
        check=True,
        timeout=120,
    )


def test_a_list_is_compiled_alike(tmp_path: Path) -> None:
    """Files and report are the same."""
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    (tmp_path / "source").write_bytes(messy(3000))
    job = CompileJob(
        str(tmp_path / "source"), str(here), None, NEVER.ranges(IPV4), NEVER.ranges(IPV6), (8, 19), [(1, 2)]
    )

    report = compile_list(job)
    run("compile", replace(job, directory=str(there)))

    assert asdict(Report.read(there)) == json.loads(json.dumps(asdict(report)))
    for name in ("ipv4.ranges", "ipv6.cidrs"):
        assert (here / name).read_bytes() == (there / name).read_bytes() != b""


def test_a_short_list_of_many_ranges_is_not_compiled_in_the_daemon(tmp_path: Path) -> None:
    """Each becomes up to 252 CIDRs, for which the daemon would have no time for anything else."""
    source, ranges = tmp_path / "source", [f"2001:db8:{n:x}::1-2001:db8:{n:x}:ffff::\n" for n in range(1000)]
    source.write_text("".join(ranges))
    started: list[Sequence[str]] = []

    class Runs:
        dry_run = False

        def run(self, argv: Sequence[str], **_: object) -> Completed:
            started.append(argv)
            return Completed(0, b"", 0.0)

    job = CompileJob(str(source), str(tmp_path), None, [], [], (8, 19))
    child.run(cast("Context", Runs()), job, [source], Limits())

    assert [argv[-3] for argv in started] == ["compile"]


def test_a_program_that_was_killed_says_where_to_look(tmp_path: Path) -> None:
    """The kernel kills the largest program where memory is short; the list in force stays."""

    class Killed:
        dry_run = False

        def run(self, *_: object, **__: object) -> Completed:
            return Completed(-9, b"", 0.0)

    job = CompileJob("", str(tmp_path), None, [], [], (8, 19))
    with pytest.raises(TemporaryError, match=r"the program was killed, .*MemoryMax"):
        child.ask(cast("Context", Killed()), job, Limits(memory=2**30, cpu=30))


def test_outputs_are_written_alike(tmp_path: Path) -> None:
    """The same outputs come out."""
    (tmp_path / "four").write_text("192.0.2.0-192.0.2.5 1;\n198.51.100.0-198.51.101.0 1;\n")
    (tmp_path / "six").write_text("2001:db8::/64 1;\n")
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    job = OutputsJob(
        [str(tmp_path / "four")], [str(tmp_path / "six")], NEVER.ranges(IPV4), NEVER.ranges(IPV6),
        ["deny", "haproxy", "ipset", "nftables"], str(here),
    )  # fmt: skip

    job.run()
    run("outputs", replace(job, directory=str(there)))

    assert (here / "haproxy").read_text() == "192.0.2.0/30\n192.0.2.4/31\n198.51.101.0\n2001:db8::/64\n"
    for name in job.outputs:
        assert (here / name).read_bytes() == (there / name).read_bytes()


def test_the_program_starts_without_agentd() -> None:
    """Of agentd only errors and limits are imported: the rest would take longer than most lists."""
    script = "import sys, handlers.ip_blacklist.child; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True, timeout=120)

    names = done.stdout.split()
    assert [name for name in names if name.startswith(b"agentd")] == [
        b"agentd", b"agentd.errors", b"agentd.limits",
    ]  # fmt: skip
    assert b"pydantic" not in names

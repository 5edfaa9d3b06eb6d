"""The program for large lists does the very work that is done here for small ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from handlers.ip_blacklist.bulk import Job, Report, compile_list
from handlers.ip_blacklist.guards import Guards
from handlers.ip_blacklist.ranges import IPV4, IPV6
from handlers.ip_blacklist.union import UnionJob, write_union
from tests.messy import messy

NEVER = Guards(["198.51.100.0/24"])


def run(kind: str, job: Job | UnionJob) -> None:
    """Run the program as the handler does, with nothing in its environment."""
    subprocess.run(
        [sys.executable, "-I", "-m", "handlers.ip_blacklist.child", kind],
        input=json.dumps(asdict(job)).encode(),
        env={},
        check=True,
        timeout=30,
    )


def test_a_list_is_compiled_alike(tmp_path: Path) -> None:
    """Files and report are the same."""
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    (tmp_path / "source").write_bytes(messy(3000))
    job = Job(
        str(tmp_path / "source"), str(here), None, NEVER.never(IPV4), NEVER.never(IPV6), (8, 19), [(1, 2)]
    )

    report = compile_list(job)
    run("compile", replace(job, directory=str(there)))

    assert asdict(Report.read(there)) == json.loads(json.dumps(asdict(report)))
    for name in ("ipv4.ranges", "ipv6.cidrs"):
        assert (here / name).read_bytes() == (there / name).read_bytes() != b""


def test_a_union_is_written_alike(tmp_path: Path) -> None:
    """The same outputs come out."""
    (tmp_path / "four").write_text("192.0.2.0-192.0.2.5 1;\n198.51.100.0-198.51.101.0 1;\n")
    (tmp_path / "six").write_text("2001:db8::/64 1;\n")
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    job = UnionJob(
        [str(tmp_path / "four")], [str(tmp_path / "six")], NEVER.never(IPV4), NEVER.never(IPV6),
        ["deny", "haproxy", "ipset", "nftables"], str(here),
    )  # fmt: skip

    write_union(job)
    run("union", replace(job, directory=str(there)))

    assert (here / "haproxy").read_text() == "192.0.2.0/30\n192.0.2.4/31\n198.51.101.0/32\n2001:db8::/64\n"
    for name in job.outputs:
        assert (here / name).read_bytes() == (there / name).read_bytes()

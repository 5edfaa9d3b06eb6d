"""docs/protocol.md: its program writes to a log that agentd reads, beside agentd as another writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agentd.fleet.head import Head
from tests.pages import ROOT, of
from tests.servers.consul import ConsulAgent
from tests.servers.followers import open_log, publish
from tests.servers.ports import free_port

PAGE = ROOT / "docs" / "protocol.md"


def test_another_program_publishes(consul: ConsulAgent, tmp_path: Path) -> None:
    """It begins a log, and goes on with one that agentd wrote to; agentd reads all of it, in order."""
    fleet = f"protocol-{free_port()}"
    program = tmp_path / "publish_message.py"
    program.write_text(next(one.text for one in of("python", page=PAGE)))

    def run(payload: str) -> int:
        done = subprocess.run(
            [sys.executable, str(program), fleet, "ip-blacklist", payload],
            env=os.environ | consul.environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return int(done.stdout)

    first = run("add 198.51.100.1")
    publish(consul, fleet, "ip-blacklist", "add 198.51.100.2")
    last = run("add 198.51.100.3")

    with open_log(consul, fleet) as log:
        head = log.head("ip-blacklist") or Head("all")
        read = [one for reading in log.after("ip-blacklist", 0, head) for one in reading.messages]
    consul.kv_delete(f"agentd/{fleet}/", recurse=True)
    assert [one.body for one in read] == [b"add 198.51.100.%d" % number for number in (1, 2, 3)]
    assert (read[0].num, read[2].num, read[2].prev) == (first, last, read[1].num)
    assert (head.oldest, head.newest, head.count) == (first, last, 3)

"""The commands that pages show, each run on one real node of a fleet, in the pages' order.

What a command prints, the tests of that command compare. Here each ends as the page leads one to expect:
what it names exists, and what came before allows for it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from agentd.cli import main
from tests.pages import ROOT, of
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node, main_job
from tests.servers.waiting import PATIENCE, wait_until

PAGES: Final = ("blacklists", "operating", "fleet")
ELSEWHERE: Final = (
    "agentd history --follow",  # runs until Ctrl-C
    "agentd leave",  # once the daemon has stopped
    "agentd fleet remove --fleet production --yes",  # likewise
    "systemctl ", "journalctl ", "apt-get ", "install ", "ip", "for ",
)  # fmt: skip
"""Commands that other tests run, and those of other programs."""
STATUS: Final = {
    "agentd check": (0, 1),  # not as root, say
    "agentd fleet remove": (1,),  # a node runs, and it says so
    "agentd status": (0, 1),
}
"""Exit statuses other than 0."""


def lines() -> Iterator[str]:
    """Each line of a block of `sh`, without its comment."""
    for page in PAGES:
        for block in of("sh", page=ROOT / "docs" / f"{page}.md"):
            for line in block.text.splitlines():
                if not line.startswith((*ELSEWHERE, "#")):
                    yield line.partition("  #")[0].rstrip()


@pytest.fixture
def node(new_consul: Callable[..., ConsulAgent], new_node: Callable[..., Node], directory: Path) -> Node:
    """A node with what the pages' commands name."""
    (directory / "drop.txt").write_text("192.0.2.1\n")
    handlers = main_job(promote_after="0s", interval="50ms", kept=True)
    handlers["blacklist"]["options"] = {"lists": {"drop": {"reference": f"file:{directory}/drop.txt"}}}
    settings = {"fleet": {"name": "production"}, "sources": {"allow": [f"file:{directory}/"]}}
    made = new_node(consul=new_consul(), handlers=handlers, settings=settings).start()
    (made.directory / "everything.txt").write_text("replace\nadd 198.51.100.8\n")
    for name in ("deploy.sh", "reboot.sh"):
        (made.directory / name).write_text("#!/bin/sh\n")
        (made.directory / name).chmod(0o755)
    made.agentd.await_listening()
    return made


def test_the_commands_of_the_pages(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ends as expected; one that changes something has done so before the next is run."""
    require("openssl")
    monkeypatch.chdir(node.directory)
    monkeypatch.setenv("AGENTD_CONFIG", str(node.configuration))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name, value in node.consul.environment.items():
        monkeypatch.setenv(name, value)
    node.outcome(node.fire("ip-blacklist", b"add 198.51.100.9"))
    wrong = []
    for shown in lines():
        line = shown.replace("3f9c21a4", _replayable(node)).replace("rollback 41", "rollback 1")
        status = _run(line)
        printed = capsys.readouterr()
        expected = next((one for begins, one in STATUS.items() if line.startswith(begins)), (0,))
        if status not in expected:
            wrong.append(f"{line}: {status}: {printed.out[-300:]}{printed.err[-300:]}")
        if "agentd fire" in line:
            wait_until(lambda: all(one["outcome"] for one in node.history()), "the outcomes")
    assert wrong == []


def _run(line: str) -> int:
    """Its exit status. What needs no shell runs in this process, which spares the start of Python."""
    program, *words = shlex.split(line)
    if program == "agentd" and "|" not in words and "lock" not in words:
        return main(words)
    return subprocess.run(
        ["bash", "-c", line], stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False
    ).returncode


def _replayable(node: Node) -> str:
    """The beginning of the ID of a change that the blacklist had."""
    return str(next(one["id"] for one in node.history("blacklist") if one["outcome"] == "applied"))[:13]

"""docs/coming-from.md: its commands print what it shows, and what fail2ban would fire is accepted."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.cli import parse
from handlers.ip_blacklist.payload import Operation, parse_payload
from tests.pages import ROOT, of
from tests.servers.guide import follow

PAGE = ROOT / "docs" / "coming-from.md"


def test_watches_are_imported(tmp_path: Path) -> None:
    """`agentd import-watches` prints what the page shows."""

    def run(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        return done.stdout

    follow(PAGE, run)


@pytest.mark.parametrize("action", ["actionban", "actionunban"])
@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
def test_what_fail2ban_fires_is_accepted(action: str, address: str) -> None:
    """With fail2ban's own values for `<ip>`, `<bantime>` and `<name>`."""
    reader = configparser.ConfigParser(interpolation=None)
    reader.read_string(next(one.text for one in of("ini", page=PAGE) if "[Definition]" in one.text))
    line = reader["Definition"][action]
    for tag, value in (("<ip>", address), ("<bantime>", "600"), ("<name>", "sshd")):
        line = line.replace(tag, value)

    _, arguments = parse(shlex.split(line)[1:])
    (operation,) = parse_payload(arguments.payload.encode(), lambda _block: None)

    assert isinstance(operation, Operation)
    assert str(operation.block).startswith(address) or operation.block
    assert operation.ttl == (600 if action == "actionban" else None)

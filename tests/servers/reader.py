"""Who reads the pages as root on a node: tries their configuration there, and runs their commands.

Owns what is moved, since a test's node has other paths and ports than a reader's, and what is played:
programs of other machines and vendors, and systemd.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from agentd.cli import main
from tests.pages import Block
from tests.servers.fleet import Node, main_job
from tests.servers.waiting import PATIENCE, wait_until

PLAYED: Final = {
    "systemctl": 'case "$*" in reload*agentd) kill -HUP "$(cat "$HERE/pid")";; esac',
    "journalctl": 'cat "$HERE/agentd.log"',
    "ssh": 'echo "$@" >>"$HERE/ssh.log"',
    "cscli": 'cat "$HERE/decisions"',
}
"""What stands for programs that a test's machine does not have."""


class Reader:
    """One reader.

    Args:
        node: where the commands are run; nothing but agentd runs there as a service.
        monkeypatch: of the test.
        capfd: likewise.

    Attributes:
        moved: what the page names -> what it is here.
    """

    def __init__(
        self, node: Node, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.node = node
        self.here = node.directory
        self.moved: dict[str, str] = {}
        self._capfd = capfd
        programs = self.here / "bin"
        programs.mkdir(exist_ok=True)
        for name, script in PLAYED.items():
            self.program(programs / name, script)
        (self.here / "pid").write_text(str(node.agentd.process.pid))
        monkeypatch.chdir(self.here)
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {"AGENTD_CONFIG": str(node.configuration), "PATH": path, "HERE": str(self.here)}
        for variable, value in (given | node.consul.environment).items():
            monkeypatch.setenv(variable, value)

    def program(self, path: Path, script: str = "") -> None:
        """Make a program."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def configure(self, *blocks: Block, more: Mapping[str, Any] | None = None) -> None:
        """Write the configuration, as `write` does, and have it in use."""
        self.write(*blocks, more=more)
        before = self._reloads()
        self.node.agentd.reload()
        wait_until(lambda: self._reloads() > before, "the reload")

    def write(self, *blocks: Block, more: Mapping[str, Any] | None = None) -> None:
        """Put blocks of YAML into the node's configuration, beside the main job."""
        merged: dict[str, Any] = {"fleet": None, "handlers": main_job(interval="50ms")} | dict(more or {})
        for block in blocks:
            document = yaml.safe_load(self._here(block.text).replace(" on:", ' "on":'))
            if not {"handlers", "fleet", "sources", "status", "trust"} & set(document):
                document = {"handlers": document}
            merged |= document | {"handlers": merged["handlers"] | document.get("handlers", {})}
        self.node.config |= merged
        self.node.configure()

    def _reloads(self) -> int:
        lines = self.node.agentd.log_lines()
        assert not any("config.refused" in line for line in lines), lines
        return sum("config.reloaded" in line for line in lines)

    def run(self, line: str) -> tuple[int, str]:
        """Run one line; its exit status, and what it printed. What needs no shell runs in this process."""
        self._capfd.readouterr()
        line = self._here(line)
        program, *words = shlex.split(line)
        if program == "agentd" and not {"|", "||", "lock", "--follow", "rolling"} & set(words):
            status = main(words)
        else:
            status = subprocess.run(
                ["bash", "-c", line], stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False
            ).returncode
        return status, "".join(self._capfd.readouterr())

    def follow(self, *blocks: Block) -> str:
        """Run blocks of `sh`, each line with success; what all of them printed."""
        printed = ""
        for line in commands(*blocks):
            status, said = self.run(line)
            assert status == 0, f"{line}: {status}: {said}"
            printed += said
        return printed

    def _here(self, text: str) -> str:
        for there, here in self.moved.items():
            text = text.replace(there, here)
        return text

    def outcome(self, handler: str) -> str:
        """Wait for the outcome of the newest change of a handler."""

        def ended() -> str:
            found = self.node.history(handler)
            return str(found[0]["outcome"] or "") if found else ""

        return wait_until(ended, f"an outcome of {handler}")


def commands(*blocks: Block) -> Iterator[str]:
    """Each command of blocks of `sh`, without its comment; one that goes on in the next line is one."""
    for block in blocks:
        begun = ""
        for line in block.text.splitlines():
            begun += line.partition("  #")[0].rstrip()
            if begun.endswith(("&&", "\\")):
                begun = begun.removesuffix("\\") + " "
            elif not begun.startswith("#"):
                yield begun
                begun = ""

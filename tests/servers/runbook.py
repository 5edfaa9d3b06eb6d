"""Carries out the runbooks of a page, with the commands and the configuration that the page shows.

A runbook is a section. Its blocks of `sh` are run, and its blocks of `yaml` put into the section `trust:`, on
the hosts that the last words in bold before them name.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.servers.followers import FollowingNode
from tests.servers.waiting import PATIENCE, wait_until

PUBLISHING: Final = "publishing host"
_BLOCK: Final = re.compile(r"(?ms)^```(sh|yaml)\n(.*?)^```$|\*\*([^*]+)\*\*")
_ETC: Final = "/etc/agentd/"
_TELLING: Final = (
    "agentd check",
    "agentd status",
    "agentd log",
)  # they say how things are, and need not say: well

_STUBS: Final = {
    "agentd": 'exec "$PYTHON" -m agentd "$@"',
    "systemctl": '[ "$*" = "reload agentd" ] && [ -z "$PID" ] || kill -HUP "$PID"',
    "ssh": 'host=$1; shift; exec "${@//$HERE//$ROOT/$host/}"',
    "scp": 'exec cp -p "$2" "$ROOT/${3%%:*}/${3#*:/etc/agentd/}"',
}


class Step(NamedTuple):
    """One block: where, in which language, what."""

    where: str
    language: str
    text: str


def steps(page: Path, title: str) -> list[Step]:
    """The blocks of a section, in order.

    Raises:
        AssertionError: there is no such section, or a block without a place.
    """
    found = re.search(rf"(?ms)^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)", page.read_text())
    assert found, title
    made: list[Step] = []
    where = ""
    for language, text, bold in _BLOCK.findall(found[2]):
        if bold:
            where = _place(bold) or where
        else:
            assert where, text
            made.append(Step(where, language, text))
    return made


def _place(bold: str) -> str:
    words = " ".join(bold.lower().split())
    return next((one for one in (PUBLISHING, "every node", "everywhere", "that node") if one in words), "")


class Host:
    """A host with agentd's directory, on which commands are run.

    Args:
        directory: stands for /etc/agentd.
        node: the daemon on it; None on a host that only publishes.
        config: the configuration of a host without a daemon.
    """

    def __init__(self, directory: Path, node: FollowingNode | None, config: Mapping[str, Any]) -> None:
        self.directory = directory
        self.node = node
        self.file = directory / "agentd.yaml"
        self.config: dict[str, Any] = node.config if node else dict(config)
        directory.mkdir(exist_ok=True)
        self.write()

    def write(self) -> None:
        """Write the configuration."""
        self.file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def change_trust(self, text: str) -> None:
        """Put lines into the section `trust:`; what they do not name stays."""
        more = yaml.safe_load(text.replace(_ETC, f"{self.directory}/"))["trust"]
        self.config["trust"] = self.config.get("trust", {}) | more
        self.write()

    def run(self, text: str, stubs: Path) -> str:
        """Run commands, as the page shows them; what they print."""
        lines = [
            re.sub(r"^(agentd keys (?:generate|show)\b.*)$", rf"\1 --directory {_ETC}keys", line)
            + (" || true" if line.startswith(_TELLING) else "")
            for line in text.splitlines()
        ]
        script = re.sub(rf"(?<![:\w]){_ETC}", f"{self.directory}/", "\n".join(lines))
        pid = str(self.node.agentd.process.pid) if self.node and self.node.agentd.process.running else ""
        before = self._reloads()
        done = subprocess.run(
            ["/bin/bash", "-euc", script],
            cwd=self.directory, capture_output=True, text=True, check=False, timeout=PATIENCE,
            env=os.environ | {
                "PATH": f"{stubs}:{os.environ['PATH']}",
                "PYTHON": sys.executable,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "AGENTD_CONFIG": str(self.file),
                "ROOT": str(self.directory.parent),
                "HERE": str(self.directory),
                "PID": pid,
            },
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        if pid and "systemctl reload" in text:
            wait_until(lambda: self._reloads() > before, f"the reload of {self.directory.name}")
        return done.stdout + done.stderr

    def _reloads(self) -> int:
        lines = self.node.agentd.log_lines() if self.node else []
        refused = [line for line in lines if "config.refused" in line]
        assert not refused, refused
        return sum("config.reloaded" in line for line in lines)


class Site:
    """The hosts of a fleet.

    Args:
        admin: publishes.
        nodes: by name.
        stubs: a directory for what stands for `systemctl`, `ssh` and `scp`.
    """

    def __init__(self, admin: Host, nodes: Mapping[str, Host], stubs: Path) -> None:
        self.admin = admin
        self.nodes = dict(nodes)
        self.away: set[str] = set()
        self._stubs = stubs
        stubs.mkdir()
        for name, script in _STUBS.items():
            (stubs / name).write_text(f"#!/bin/bash\n{script}\n")
            (stubs / name).chmod(0o755)

    def hosts(self, where: str) -> Iterator[Host]:
        """The hosts that the page means; those that are away cannot be reached."""
        if where in (PUBLISHING, "everywhere"):
            yield self.admin
        if where in ("every node", "everywhere"):
            yield from (host for name, host in self.nodes.items() if name not in self.away)

    def follow(
        self,
        runbook: list[Step],
        known: Callable[[str], str],
        after: Callable[[Host, Step, str], None] = lambda _host, _step, _said: None,
    ) -> None:
        """Carry out a runbook, one host after the other.

        Args:
            runbook: its steps.
            known: puts in what the page leaves to the reader, such as public keys.
            after: called after each step on each host, with what was printed.
        """
        for step in runbook:
            for host in self.hosts(step.where):
                self.do(host, step, known, after)

    def do(
        self,
        host: Host,
        step: Step,
        known: Callable[[str], str],
        after: Callable[[Host, Step, str], None] = lambda _host, _step, _said: None,
    ) -> None:
        """Carry out one step on one host."""
        said = ""
        if step.language == "yaml":
            host.change_trust(known(step.text))
        else:
            said = host.run(known(step.text), self._stubs)
        after(host, step, said)

    def command(self, line: str) -> str:
        """Run a command on the publishing host; what it prints."""
        return self.admin.run(line, self._stubs)


def advice(said: str) -> list[list[str]]:
    """The commands in backquotes that were printed, as words."""
    return [shlex.split(one) for one in re.findall(r"`(agentd [^`]+)`", said)]

"""docs/getting-started.md, word by word, on one node: its files are moved, and systemd and apt are played."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.pages import ROOT
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node, main_job
from tests.servers.guide import follow
from tests.servers.ports import free_port
from tests.servers.waiting import PATIENCE

_WANTED = "multi-user.target.wants/agentd.service"
PAGE = ROOT / "docs" / "getting-started.md"


class Shell:
    """Root's shell on the node that the page describes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        port = free_port()
        nginx = node.nginx.conf.parent
        (nginx / "conf.d").mkdir()
        text = node.nginx.conf.read_text()
        node.nginx.conf.write_text(
            text.replace("include agentd/current/agentd.conf;", "include conf.d/*.conf;").replace(
                "if ($agentd_blocked) { return 403; }", ""
            )
        )
        self._moved = {
            "/etc/nginx": str(nginx),
            "/etc/agentd/agentd.yaml": str(node.configuration),
            "127.0.0.1:8080": f"127.0.0.1:{port}",
            "127.0.0.1:8500": f"{node.consul.address}:{node.consul.ports['http']}",
        }
        self._played: dict[str, Callable[[], str]] = {
            "apt-get ": lambda: "",
            "systemd-run ": lambda: "Running as unit: consul-try.service\n",
            "systemctl enable --now agentd": self._start,
            "systemctl stop ": lambda: "",
            "rm ": lambda: "",
        }

    def _start(self) -> str:
        self._node.agentd.start()
        return f"Created symlink /etc/systemd/system/{_WANTED} → /lib/systemd/system/agentd.service.\n"

    def run(self, line: str) -> str:
        """Run one command; what it printed, with the page's paths."""
        for begins, play in self._played.items():
            if line.startswith(begins):
                return play()
        for there, here in self._moved.items():
            line = line.replace(there, here)
        done = subprocess.run(
            ["bash", "-c", line],
            env={
                **os.environ,
                **self._node.consul.environment,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "AGENTD_CONFIG": str(self._node.configuration),
            },
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        said = done.stdout + done.stderr
        for there, here in self._moved.items():
            said = said.replace(here, there)
        return said


def test_a_stranger_gets_started(
    new_consul: Callable[..., ConsulAgent], new_node: Callable[..., Node]
) -> None:
    """Every command prints what the page shows."""
    require("curl")
    require("openssl")
    node = new_node(consul=new_consul(), handlers=main_job())
    shell = Shell(node)
    node.nginx.start()

    follow(PAGE, shell.run)

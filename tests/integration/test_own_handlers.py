"""A handler and a command of one's own, those of `config/examples/maintenance`, with the real daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.fleet import Node, main_job
from tests.servers.waiting import wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "examples" / "maintenance"
CLOSED = b'default "Back at 14:00.";'


@pytest.fixture
def node(new_node: Callable[..., Node]) -> Node:
    """A node at work."""
    return new_node(handlers=main_job()).start()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory as `pip install --target` makes it, with the example in it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    for module in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(EXAMPLE / f"{module}.py", tmp_path)
    metadata = tmp_path / "agentd_maintenance-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: agentd-maintenance\nVersion: 1.0\n")
    groups = project["project"]["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def agentd(installed: Path, *argv: str) -> str:
    """Run a command where the example is installed; what it printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(installed)])}
    done = subprocess.run(
        [sys.executable, "-m", "agentd", *argv], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def staged(node: Node, text: bytes) -> bool:
    """Whether the handler's file holds this text."""
    return text in node.content().get("maintenance/maintenance.conf", b"")


def test_handler_that_was_dropped_into_a_directory_works_after_sighup(node: Node, tmp_path: Path) -> None:
    """The running daemon imports it, and so do the commands."""
    own = tmp_path / "handlers"
    own.mkdir(mode=0o755)
    shutil.copy(EXAMPLE / "maintenance.py", own)
    (own / "maintenance.py").chmod(0o644)
    node.config["handlers_path"] = [str(own)]
    entry = {"use": "maintenance:Maintenance", "on": [{"key": "own/maintenance"}]}
    node.configure(main_job() | {"maintenance": entry})
    node.agentd.reload()
    node.consul.kv_put("own/maintenance", b"Back at 14:00.")
    wait_until(lambda: staged(node, CLOSED), "the text of the key in the handler's file")
    listed = node.agentd.command("handlers", "maintenance:Maintenance")
    assert (listed.returncode, "broken" in listed.stdout) == (0, False)


def test_directory_that_others_may_write_changes_nothing(node: Node, tmp_path: Path) -> None:
    """The new configuration is refused with the reason, and the daemon goes on with the old one."""
    own = tmp_path / "handlers"
    own.mkdir()
    own.chmod(0o777)
    node.config["handlers_path"] = [str(own)]
    node.configure()
    node.agentd.reload()
    wait_until(
        lambda: any("config.refused" in line for line in node.agentd.log_lines()), "that it was refused"
    )
    assert any("is writable by others" in line for line in node.agentd.log_lines())
    assert node.agentd.process.running


def test_command_of_another_package_runs_like_an_own_one(node: Node, installed: Path) -> None:
    """It is listed, has its help, and talks to Consul; the handler of the package is known by its name."""
    assert "maintenance   close the sites of the whole fleet" in agentd(installed, "--help")
    assert 'agentd maintenance on "Back at 14:00."' in agentd(installed, "maintenance", "--help")
    assert "Sets an nginx variable" in agentd(installed, "handlers", "maintenance")
    where = ["--config", str(node.configuration)]
    agentd(installed, "maintenance", "on", "Back at 14:00.", *where)
    assert node.consul.kv_get("site/maintenance") == b"Back at 14:00."
    agentd(installed, "maintenance", "off", "--http-addr", node.consul.url)
    assert node.consul.kv_get("site/maintenance") is None

"""docs/writing-a-handler.md, followed to the end: its handler, tried, used, packaged, and its command."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.pages import ROOT, of
from tests.servers.fleet import Node, main_job
from tests.servers.waiting import wait_until

PAGE: Final = ROOT / "docs" / "writing-a-handler.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that a reader ends up with."""
    made = tmp_path_factory.mktemp("motd")
    for block in of("python", page=PAGE):
        (made / block.text.partition("\n")[0].removeprefix("# ")).write_text(block.text)
    (project,) = of("toml", page=PAGE)
    (made / "pyproject.toml").write_text(project.text)
    return made


def run(*argv: str, cwd: Path | None = None, **environment: str) -> str:
    """Run a program to its end; what it printed."""
    done = subprocess.run(
        argv, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown(node: Node) -> bytes:
    """The greeting that nginx is to send."""
    return node.content().get("motd/motd.txt", b"")


def test_the_handler_of_the_guide_is_tried_and_used(new_node: Callable[..., Node], written: Path) -> None:
    """A dry run shows what it would write, by the program; then it is live, and a bad text is refused."""
    node = new_node(handlers=main_job()).start()
    (configured,) = of("yaml", page=PAGE)
    own = node.directory / "handlers"
    own.mkdir(mode=0o755)
    (own / "motd.py").write_text((written / "motd.py").read_text())
    (own / "motd.py").chmod(0o644)
    node.config["handlers_path"] = [str(own)]
    entry = yaml.safe_load(configured.text.replace(" on:", ' "on":'))["handlers"]["motd"]
    node.configure(main_job() | {"motd": entry})
    node.consul.kv_put("site/motd", b"Welcome.")

    tried = node.agentd.command("render", "motd", "--once")
    assert "Welcome." in tried.stdout
    assert "motd/motd.txt.gz" in tried.stdout
    assert "would run" not in tried.stdout
    assert shown(node) == b""

    node.agentd.reload()
    wait_until(lambda: shown(node) == b"Welcome.", "the greeting in a generation")
    assert gzip.decompress(node.content()["motd/motd.txt.gz"]) == b"Welcome."

    node.consul.kv_put("site/motd", b"two\nlines")
    failed = ("history", "--handler", "motd", "--failed")
    wait_until(
        lambda: "one printable line" in node.agentd.command(*failed).stdout,
        "the refusal in history",
        pause=0.5,
    )
    history = node.agentd.command("history", "--handler", "motd", "--json").stdout
    identity = re.search(r'"id": "([^"]+)"', history)
    assert identity
    assert "would be refused" in node.agentd.command("replay", identity[1], "--dry-run").stdout
    assert shown(node) == b"Welcome."
    assert list((Path(node.config["state"]) / "fetched").glob(".scratch*")) == []


def test_the_package_of_the_guide_brings_handler_and_command(written: Path, tmp_path: Path) -> None:
    """Installed into a directory that agentd looks into, both are known by their names."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=written)
    wheel = "dist/agentd_motd-1.0-py3-none-any.whl"
    assert wheel in PAGE.read_text()
    run(*pip, "install", "--no-deps", "--upgrade", "--target", str(tmp_path), wheel, cwd=written)

    path = os.pathsep.join([*filter(None, sys.path), str(tmp_path)])
    assert "Keeps one file" in run(sys.executable, "-m", "agentd", "handlers", "motd", PYTHONPATH=path)
    assert 'agentd motd "Welcome."' in run(sys.executable, "-m", "agentd", "motd", "--help", PYTHONPATH=path)

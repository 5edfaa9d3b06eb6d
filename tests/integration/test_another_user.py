"""Every command as a user who is not root: it says at once what it lacks, or needs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from agentd import cli
from agentd.commands import OWN
from agentd.commands.node import Node
from agentd.config.load import load
from agentd.journal.journal import Journal
from agentd.journal.plan import Plan
from agentd.trust.keys import new_fleet_key, new_secret_key
from tests.servers.equipment import require_root

_CHECKOUT: Final = Path(__file__).parents[2]
_NOBODY: Final = 65534
# Those that read only what everybody may, or ask Consul; `{}` is the machine's directory.
_ANYBODY: Final = (
    "init --dry-run",
    "render tell",
    "fire refresh payload",
    "fleet",
    "rollout status",
    "log",
    "tickets",
    "example",
    "example deploy",
    "handlers",
    "handlers tell",
    "nodes api",
    "lock some/lock -- true",
    "import-watches {}/watches.json",
    "upstream list --upstream api --on lb",
    "rolling --upstream api --on lb --servers api -- true",
)
_ROOT_ONLY: Final = (
    "init",
    "run",
    "run --config {}/plain.yaml",
    "check",
    "check --config {}/secret.yaml",
    "status",
    "history",
    "history --limit 1",
    "generations",
    "generations show",
    "generations diff -1",
    "rollback",
    "pause tell",
    "resume tell",
    "replay 3f9c21a4",
    "publish keys payload",
    "rollout abort keys",
    "freeze",
    "thaw",
    "keys show --directory {}/keys",
    "keys generate publisher new --directory {}/keys",
    "leave",
    "status --config {}/secret.yaml",
    "nodes api --config {}/secret.yaml",
    "blacklist list",
    "blacklist add 203.0.113.5",
    "rotate-tickets keys",
)
_PROGRAM: Final = """
import contextlib, io, json, sys, traceback
from agentd.cli import main
told = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as error:
            status = error.code
        except BaseException:
            status = traceback.format_exc()
    told.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def _configure(directory: Path) -> None:
    """For everybody to read; in `secret.yaml` for root alone, and in `plain.yaml` without a fleet."""
    ops, fleet = new_secret_key(), new_fleet_key()
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    for name, text in (("ops", ops.text), ("fleet", fleet.text)):
        (keys / f"{name}.key").touch(mode=0o600)
        (keys / f"{name}.key").write_text(text)
    plain: dict[str, Any] = {
        "consul": {"address": "127.0.0.1:1"},
        "nginx": None,
        "tree": {"path": str(directory / "tree")},
        "state": str(directory / "state"),
        "status": {"address": None},
        "handlers": {
            "tell": {"use": "command", "on": [{"event": "a"}], "options": {"argv": ["/bin/true"]}},
            "blacklist": {"use": "ip_blacklist", "on": [{"event": "ip-blacklist"}]},
        },
    }
    trust = {
        "publishers": {"ops": {"key": ops.public.text, "may": ["keys"]}},
        "signing_key": str(keys / "ops.key"),
        "fleet_keys": [str(keys / "fleet.key")],
    }
    whole = plain | {"fleet": {"name": "test", "service": False}, "trust": trust}
    for name, content in (("plain", plain), ("agentd", whole), ("secret", whole)):
        (directory / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
        (directory / f"{name}.yaml").chmod(0o600 if name == "secret" else 0o644)
    (directory / "watches.json").write_text('{"watches": []}')


def _commit(directory: Path) -> None:
    """Make a journal and two generations, as the daemon of root does."""
    (directory / "state").mkdir(mode=0o700)
    journal = Journal(directory / "state" / "journal.db")
    try:
        node = Node(load(directory / "plain.yaml"), journal)
        for text in (b"one", b"two"):
            stage = node.tree.stage("tell")
            stage.write("plain.txt", text)
            node.committer.commit(stage, Plan(handler="tell"))
    finally:
        journal.close()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """What there is on the machine; pytest's own directories are closed to others."""
    require_root("run commands as another user")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        _configure(Path(name))
        _commit(Path(name))
        yield Path(name)


@pytest.fixture(scope="module")
def told(directory: Path) -> dict[str, tuple[Any, str, str]]:
    """Status, output and errors of each, from one process."""
    words = [*_ROOT_ONLY, *_ANYBODY]
    config = ["--config", f"{directory}/agentd.yaml"]
    argvs = [[*config, *(word.format(directory) for word in one.split())] for one in words]
    done = subprocess.run(
        [sys.executable, "-B", "-c", _PROGRAM],
        input=json.dumps(argvs),
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(_CHECKOUT)},
        user=_NOBODY,
        group=_NOBODY,
        extra_groups=[],
        timeout=120,
        check=False,
    )
    if "No module named" in done.stderr:
        pytest.skip("the checkout is where another user cannot read it")
    assert done.returncode == 0, done.stderr
    return {one: tuple(each) for one, each in zip(words, json.loads(done.stdout), strict=True)}


def test_none_is_forgotten() -> None:
    """A new command has to say what it needs of whom."""
    assert {one.split()[0] for one in (*_ROOT_ONLY, *_ANYBODY)} == {*OWN, *cli.installed()}


@pytest.mark.parametrize("words", _ROOT_ONLY)
def test_it_says_at_once_what_it_lacks(words: str, told: dict[str, tuple[Any, str, str]]) -> None:
    """One line that names the file or the right, and the way; nothing of a result before it."""
    status, out, errors = told[words]

    assert status in (1, 2), errors
    lines = (out + errors).splitlines()
    if words.startswith("check --config"):  # a finding, with its advice below
        lines = [" ".join(line.strip() for line in lines)]
    assert len(lines) == 1, lines
    assert "/" in lines[0].partition("sudo")[0]
    assert lines[0].count("sudo") == 1


@pytest.mark.parametrize("words", _ANYBODY)
def test_it_needs_no_root(words: str, told: dict[str, tuple[Any, str, str]]) -> None:
    """Without Consul it may fail, but not for want of a right."""
    status, out, errors = told[words]

    assert status in (0, 1, 2), status
    assert "sudo" not in errors
    assert "Permission denied" not in out + errors


def test_nothing_was_changed(directory: Path, told: dict[str, tuple[Any, str, str]]) -> None:
    """Not a file of that user's is left on the machine."""
    assert told
    assert not [path for path in directory.rglob("*") if path.lstat().st_uid == _NOBODY]

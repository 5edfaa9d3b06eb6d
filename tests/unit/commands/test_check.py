"""`agentd check` on what needs no server: configuration, directories, and a Consul that is away."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from agentd.cli import main
from agentd.commands.checks import disk, nginx
from agentd.commands.checks.consul import rule
from agentd.config.load import Loaded, load
from agentd.configured_tree import open_tree
from agentd.options import NginxOptions
from tests.unit.tree.trees import commit


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration without nginx, whose Consul does not run."""
    file = tmp_path / "agentd.yaml"
    configuration = {
        "consul": {"address": f"unix://{tmp_path}/none.sock"},
        "nginx": None,
        "tree": {"path": str(tmp_path / "etc" / "agentd")},
        "state": str(tmp_path / "state"),
        "handlers": {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}},
    }
    file.write_text(json.dumps(configuration))
    return file


@pytest.fixture
def loaded(config: Path) -> Loaded:
    """The same, loaded."""
    return load(config)


def levels(loaded: Loaded) -> dict[str, str]:
    """Subject -> level of what was found about the directories."""
    return {one.subject: one.level for one in disk.findings(loaded)}


def test_wrong_configuration_fails_with_each_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, one FAIL a problem, with file and line."""
    file = tmp_path / "agentd.yaml"
    file.write_text("colour: red\nhandlers: {a: {use: nothing}}\n")
    assert main(["check", "--json", "--config", str(file)]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [(one["level"], one["subject"]) for one in found] == [("FAIL", "configuration")] * 2
    assert f"{file}:1: " in found[0]["text"]


def test_consul_that_is_away_fails_with_advice(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1; the line says what to do; the other checks are made all the same."""
    assert main(["check", "--config", str(config)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("FAIL  consul"))
    assert "-> start the local Consul agent, or correct consul.address" in lines[at + 1]
    assert any(line.startswith("ok    state") for line in lines)


def test_unreadable_token_file_fails(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token that cannot be read is told before anything is sent."""
    configuration = json.loads(config.read_text())
    configuration["consul"]["token_file"] = "/no/such/token"
    config.write_text(json.dumps(configuration))
    assert main(["check", "--config", str(config)]) == 1
    assert "/no/such/token" in capsys.readouterr().out


def test_directories_that_can_be_made_are_fine(loaded: Loaded) -> None:
    """Neither tree nor state need exist before the first start."""
    assert levels(loaded)["tree"] == levels(loaded)["state"] == "ok"


def test_read_only_directory_fails(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system does not let us write stands in the way."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert levels(loaded)["tree"] == levels(loaded)["state"] == "FAIL"


def test_file_in_the_place_of_a_directory_fails(loaded: Loaded) -> None:
    """A file where the tree is to be is told as such."""
    loaded.config.tree.path.parent.write_text("")
    assert levels(loaded)["tree"] == "FAIL"


def test_state_open_to_others_is_warned_of(loaded: Loaded) -> None:
    """The journal holds payloads: its directory is for its owner only."""
    loaded.config.state.mkdir(mode=0o755)
    assert levels(loaded)["state"] == "warn"


def test_damage_to_the_tree_fails(loaded: Loaded) -> None:
    """The file is named, and nothing is changed by asking."""
    tree = open_tree(loaded.config)
    commit(tree, "one", {"a/x": b"1"})
    file = tree.path / "current" / "a" / "x"
    file.write_bytes(b"2")
    found = [one for one in disk.findings(loaded) if one.level == "FAIL"]
    assert [(one.subject, one.text) for one in found] == [
        ("tree", f"{tree.path} is damaged: generation 1: a/x")
    ]
    assert file.read_bytes() == b"2"


def test_a_journal_that_was_set_aside_is_warned_of(loaded: Loaded) -> None:
    """Once, not for its write-ahead log as well."""
    loaded.config.state.mkdir(mode=0o700)
    for name in ("journal.db.damaged-20260101T000000Z", "journal.db.damaged-20260101T000000Z-wal"):
        (loaded.config.state / name).touch()
    found = [one.subject for one in disk.findings(loaded) if one.level == "warn"]
    assert found.count("journal") == 1


def test_asking_as_another_user_is_warned_of(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user may not write, the daemon may."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert levels(loaded)["user"] == "warn"


def test_a_missing_directory_for_nginx_s_socket_is_warned_of(loaded: Loaded, tmp_path: Path) -> None:
    """Without it nginx refuses the files that the daemon makes at its first start."""
    options = NginxOptions(binary=str(tmp_path / "none"), canary=tmp_path / "run" / "nginx.sock")
    before = [one.subject for one in nginx.findings(loaded, options)]
    (tmp_path / "run").mkdir()
    after = [one.subject for one in nginx.findings(loaded, options)]
    assert (before, after) == (["nginx socket", "nginx"], ["nginx"])


@pytest.mark.parametrize(
    "below, right, text",
    [
        (False, ("event", "read", ""), 'event_prefix "" { policy = "read" }'),
        (False, ("service", "read", "web"), 'service "web" { policy = "read" }'),
        (True, ("key", "read", "site/"), 'key_prefix "site/" { policy = "read" }'),
    ],
)
def test_advice_is_a_rule_of_consuls_language(
    below: bool,  # noqa: FBT001 (pytest passes parameters by name)
    right: tuple[str, str, str],
    text: str,
) -> None:
    """It can be pasted into a policy."""
    assert rule(right, below=below) == text


def with_secrets(config: Path, directory: Path) -> Loaded:
    """The same configuration, with secrets in this directory."""
    changed = json.loads(config.read_text())
    changed["tree"]["secrets"] = str(directory)
    config.write_text(json.dumps(changed))
    return load(config)


def test_secrets_on_a_disk_are_told(config: Path) -> None:
    """The file system decides, whatever the path is called; a directory to come counts as its parent."""
    memory, disk_ = Path("/dev/shm/agentd-no-such-directory"), Path("/var/lib/agentd-no-such-directory")

    assert levels(with_secrets(config, memory))["secrets"] == "ok"
    assert levels(with_secrets(config, disk_))["secrets"] == "warn"


def test_secrets_that_others_can_change_fail(config: Path) -> None:
    """They could put another key there; the daemon refuses such a directory as well."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory).chmod(0o777)

        (found,) = (
            one for one in disk.findings(with_secrets(config, Path(directory))) if one.subject == "secrets"
        )

    assert (found.level, found.advice) == ("FAIL", f"chmod 700 {directory}")

"""The command line: what may be typed, and how errors are told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.cli import main
from agentd.config import Loaded

COMMANDS = (
    "run",
    "check",
    "status",
    "history",
    "generations",
    "rollback",
    "replay",
    "fire",
    "handlers",
    "import-watches",
    "nodes",
    "lock",
)


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run what must be refused as wrong usage; return what is said."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`agentd --version` prints one line."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "agentd 0.1.0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_knows_help_config_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`agentd COMMAND --help` names the options that all commands share."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--config FILE" in said
    assert "--json" in said


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["no-such-command"],
        ["fire"],
        ["fire", ""],
        ["fire", "a\nb"],
        ["fire", "name", "payload", "--file", "x"],
        ["history", "--limit", "0"],
        ["history", "--limit", "1e3"],
        ["rollback", "0"],
        ["rollback", "-1"],
        ["rollback", "99999999999999999999"],
        ["rollback", "--wait", "soon"],
        ["replay"],
        ["import-watches"],
    ],
)
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that means nothing is refused before anything is opened."""
    assert "agentd" in usage_error(capsys, *argv)


@pytest.mark.parametrize("before", [True, False])
def test_config_may_stand_before_and_after_the_command(
    before: bool,  # noqa: FBT001 (pytest passes parameters by name)
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both places name the same file."""
    given = ["--config", str(tmp_path / "absent.yaml")]
    assert main([*given, "fire", "x"] if before else ["fire", "x", *given]) == 2
    assert (
        capsys.readouterr().err
        == f"agentd: {tmp_path}/absent.yaml: cannot be read: No such file or directory\n"
    )


def test_environment_names_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """$AGENTD_CONFIG is used when --config is not given."""
    monkeypatch.setenv("AGENTD_CONFIG", str(tmp_path / "there.yaml"))
    assert main(["fire", "x"]) == 2
    assert "there.yaml: cannot be read" in capsys.readouterr().err


def test_every_problem_of_the_configuration_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration with two mistakes gives two lines, with file and line, and status 2."""
    file = tmp_path / "agentd.yaml"
    file.write_text("colour: red\nhandlers:\n  a: {use: no_such_handler}\n")
    assert main(["fire", "x", "--config", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["agentd", f"{file}:1"], ["agentd", f"{file}:3"]]


def test_missing_permission_says_to_run_as_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not read a file is told to use sudo."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/etc/agentd/agentd.yaml")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "read_text", refuse)
    assert main(["fire", "x", "--config", str(tmp_path / "agentd.yaml")]) == 2
    assert capsys.readouterr().err.endswith(
        "cannot be read: Permission denied; run it as root (sudo agentd ...)\n"
    )


def test_journal_of_root_alone_says_to_run_as_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system itself refuses is told like any other error: one line, no traceback."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/agentd/journal.db")

    file = tmp_path / "agentd.yaml"
    file.write_text("handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("agentd.commands.node.open_journal", refuse)
    assert main(["history", "--config", str(file)]) == 1
    said = capsys.readouterr().err
    assert said == "agentd: /var/lib/agentd/journal.db: Permission denied; run it as root (sudo agentd ...)\n"


def test_interrupt_ends_as_a_shell_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with 130 and without a traceback."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agentd.commands.import_watches.import_watches", interrupt)
    monkeypatch.setattr(sys, "stdin", io.StringIO("[]"))
    assert main(["import-watches", "-"]) == 130


def test_closed_pipe_ends_quietly() -> None:
    """`agentd handlers | head -0` says nothing and ends with 141."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agentd", "handlers"], stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_parsing_imports_nothing_heavy() -> None:
    """--help needs neither pydantic nor Consul's client: it must answer at once."""
    heavy = "{'pydantic', 'consul', 'urllib3', 'yaml', 'structlog'}"
    program = f"import sys, agentd.cli; agentd.cli._parser(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("flags, form", [([], "auto"), (["--json"], "json")])
def test_run_hands_the_configuration_to_the_daemon(
    flags: list[str], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's exit status is the command's, and --json is how it logs."""
    file = tmp_path / "agentd.yaml"
    file.write_text("handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n")
    given: list[Loaded] = []

    def daemon(loaded: Loaded) -> int:
        given.append(loaded)
        return 3

    monkeypatch.setattr("agentd.agent.run", daemon)
    assert main(["run", "--config", str(file), *flags]) == 3
    assert [(loaded.path, loaded.config.log.format) for loaded in given] == [(file, form)]

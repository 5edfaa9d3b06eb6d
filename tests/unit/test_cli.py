"""The command line: what may be typed, and how errors are told."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from agentd import __version__, cli
from agentd import command as command_api
from agentd.cli import main
from agentd.commands import OWN
from agentd.commands.parser import Parser
from agentd.config.load import Loaded
from agentd.journal.journal import Journal

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


def test_agentd_alone_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """As its help does, to standard error."""
    with pytest.raises(SystemExit, match=r"\A2\Z"):
        main([])
    assert capsys.readouterr() == ("", cli.parser_of_all(OWN).format_help())


def test_examples_say_sudo_where_root_is_needed() -> None:
    """What reads the journal, the tree or keys, or is the daemon."""
    readers = ("check", "status", "history", "generations", "render", "rollback", "replay", "pause", "run")
    examples = [one for name in readers for one in PAGES[f"agentd {name}"].examples]
    assert [one for one in examples if not one.startswith("sudo ")] == []


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`agentd --version` prints one line."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"agentd {__version__}\n"


def pages(parser: Parser) -> Iterator[Parser]:
    """This parser, and those of its commands and their verbs."""
    yield parser
    for verb in parser.verbs.values():
        yield from pages(verb)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from pages(below)


PAGES = {page.prog: page for page in pages(cli.parser_of_all(OWN, complete=True))}


@pytest.mark.parametrize("page", PAGES)
def test_help_begins_with_examples_that_parse(page: str) -> None:
    """What an operator copies from the top of a help page is accepted as it stands."""
    examples = PAGES[page].examples
    assert examples
    assert PAGES[page].format_help().partition("\n\n")[2].startswith(f"  {examples[0]}\n")
    for example in examples:
        words = shlex.split(example.partition(" | ")[0].partition(" > ")[0].removeprefix("sudo "))
        assert words[0] == "agentd"
        cli.parse(words[1:])


def test_help_ends_with_the_exit_status_where_it_means_something() -> None:
    """After what was written there otherwise, once, and as a sentence."""
    told = {name: page.exit_status for name, page in PAGES.items() if page.exit_status}
    assert {"agentd status", "agentd check", "agentd fleet", "agentd lock"} <= set(told)
    for name, text in told.items():
        shown = " ".join(PAGES[name].format_help().split())
        assert shown.endswith(f"Exit status: {' '.join(text.split())}")
        assert text.endswith(".")
    assert not any("Exit status" in (page.epilog or "") for page in PAGES.values())


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
        ["fire", "name", "payload", "another"],
        ["history", "--limit", "0"],
        ["history", "--limit", "1e3"],
        ["rollback", "0"],
        ["rollback", "-1"],
        ["rollback", "99999999999999999999"],
        ["rollback", "--wait", "soon"],
        ["replay"],
        ["import-watches"],
        ["fleet", "a", "b"],
        ["fleet", "remove", "a"],
        ["fleet", "a", "--yes"],
        ["log", "a", "b"],
        ["log", "forget"],
        ["log", "forget", "a", "b"],
        ["log", "a", "--before", "7"],
    ],
)
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that means nothing is refused before anything is opened."""
    assert "agentd" in usage_error(capsys, *argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["publish", "deploy", "--re=sesame"],
        ["publish", "deploy", "--re", "sesame"],
        ["publish", "deploy", "--snapshot=sesame"],
        ["publish", "deploy", "--pay=sesame"],
        ["publish", "deploy", "a", "sesame"],
        ["fire", "deploy", "-sesame"],
        ["fleet", "--w=sesame"],
        ["fleet", "forget", "lb1", "--for=sesame"],
        ["nodes", "web", "sesame"],
        ["status", "--http=sesame"],
        ["history", "--json=sesame"],
        ["blacklist", "add", "192.0.2.7", "10m", "--rea=sesame"],
        ["lock", "a", "--token=sesame", "--", "true"],
    ],
)
def test_wrong_usage_quotes_nothing_that_may_be_secret(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Part of a payload may look like an option, or like the abbreviation of several."""
    assert "sesame" not in usage_error(capsys, *argv)


@pytest.mark.parametrize("argv", [["fleet", "--wat"], ["history", "--lim", "5"], ["--vers"]])
def test_options_cannot_be_abbreviated(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Else a new option would break scripts that abbreviate an old one."""
    usage_error(capsys, *argv)


@pytest.mark.parametrize("page", ["fleet forget", "fleet remove", "log forget"])
def test_a_verb_has_its_own_help(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With its usage, and without the options of the command."""
    with pytest.raises(SystemExit) as ended:
        main([*page.split(), "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith(f"usage: agentd {page} ")
    assert "--watch" not in said
    assert "--limit" not in said


def test_a_verb_may_follow_options() -> None:
    """Their values are no verbs, and after `--` nothing is."""
    assert cli.parse(["fleet", "--fleet", "forget", "forget", "lb1"])[1].nodes == ["lb1"]
    assert cli.parse(["fleet", "--fleet", "forget", "watch"])[1].verb is None
    assert cli.parse(["fleet", "--fleet=a", "--force", "remove"])[1].verb == "remove"
    assert cli.parse(["--config", "x", "log", "--", "forget"])[1].name == "forget"


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
        == f"agentd: {tmp_path}/absent.yaml: cannot be read: No such file or directory;"
        " create it (`agentd init`), or name another with --config\n"
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
    assert main(["rollback", "--config", str(file)]) == 2
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
    monkeypatch.setattr("agentd.commands.places.open_journal", refuse)
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


@pytest.mark.parametrize("target,status", [(">/dev/full", 1), (">&-", 0)])
def test_output_that_cannot_be_written_is_told_without_a_traceback(target: str, status: int) -> None:
    """A full disk is an error; an output that was closed is nobody's."""
    command = f"{shlex.quote(sys.executable)} -m agentd handlers {target}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    said = "agentd: the output: No space left on device\n" if status else ""
    assert (done.returncode, done.stderr) == (status, said)


HEAVY = {
    *("pydantic", "consul", "urllib3", "structlog", "prometheus_client", "tenacity", "asyncio", "requests"),
    *("handlers", "agentd.agent", "agentd.apply", "agentd.config.load", "agentd.watch.client"),
}


@pytest.mark.parametrize("command", ["--version", "status", "history", "generations"])
def test_commands_that_only_read_import_little(command: str, tmp_path: Path) -> None:
    """Monitoring runs them often: neither pydantic nor Consul's client nor a handler is imported."""
    file = tmp_path / "agentd.yaml"
    Journal(tmp_path / "journal.db").close()
    file.write_text(
        f"tree: {{path: {tmp_path}}}\nstate: {tmp_path}\nhandlers: {{a: {{use: ip_blacklist}}}}\n"
    )
    argv = [command] if command == "--version" else [command, "--config", str(file)]
    program = (
        "import atexit, sys; from agentd.cli import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.exit(main({argv}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout
    assert HEAVY & set(done.stderr.split()) == set()


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


# ------------------------------------------------------------------ commands of other packages


def brought(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Have these commands, (name, module), installed by other packages."""
    made: dict[str, list[EntryPoint]] = {}
    for name, value in points:
        made.setdefault(name, []).append(EntryPoint(name, value, cli.GROUP))
    monkeypatch.setattr(cli, "installed", lambda: made)


def test_built_in_commands_of_handlers_are_ordinary_entry_points() -> None:
    """As a stranger's are, and each has one place."""
    found = {name: len(points) for name, points in cli.installed().items()}
    assert found | {"blacklist": 1, "rolling": 1, "upstream": 1} == found


@pytest.mark.parametrize(
    "points,said",
    [
        (
            [("odd", "tests.integration.broken_import")],
            "'odd' (tests.integration.broken_import) cannot be imported",
        ),
        ([("odd", "no_such_module")], "ModuleNotFoundError"),
        ([("odd", "agentd.errors")], "has no HELP and no add_arguments and no execute"),
        ([("odd", "json"), ("odd", "csv")], "two packages bring a command 'odd' (json and csv)"),
    ],
)
def test_a_command_that_cannot_be_used_says_why(
    points: list[tuple[str, str]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """When it is typed, and in the list of all; the others work all the same."""
    brought(monkeypatch, *points)
    assert main(["odd"]) == 1
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "odd           broken: " in shown
    assert "status        show whether" in shown


@pytest.mark.parametrize(
    "text,said",
    [
        ("HELP = None\ndef add_arguments(parser): ...\ndef execute(*_): ...\n", "has no HELP"),
        ("HELP = 'x'\nadd_arguments = execute = 7\n", "has no add_arguments and no execute"),
        ("HELP = 'x'\ndef add_arguments(parser): 1/0\ndef execute(*_): ...\n", "cannot add its arguments"),
    ],
)
def test_a_module_that_is_no_command_is_told_without_a_traceback(
    text: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And does not keep `agentd --help` from listing the others."""
    (tmp_path / "odd_command.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_command", raising=False)
    brought(monkeypatch, ("odd", "odd_command"))
    assert main(["odd"]) == 1
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "status        show whether" in capsys.readouterr().out


def test_help_of_a_command_may_have_a_percent_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Argparse would take it for a format."""
    (tmp_path / "percent_command.py").write_text(
        "HELP = 'shift 50% of it'\ndef add_arguments(parser): ...\ndef execute(*_): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    brought(monkeypatch, ("odd", "percent_command"))
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "shift 50% of it" in capsys.readouterr().out


def test_own_commands_cannot_be_shadowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that brings `status` brings nothing."""
    brought(monkeypatch, ("status", "tests.integration.broken_import"))
    command, _ = cli.parse(["status"])
    assert command.__name__ == "agentd.commands.status"  # type: ignore[attr-defined] # it is a module
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.count("status  ") == 1


@pytest.mark.parametrize("word,near", [("statsu", "'status'"), ("blacklst", "'blacklist'")])
def test_unknown_command_is_told_the_nearest(
    word: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And all there are."""
    said = usage_error(capsys, word)
    assert f"there is no command {word!r}; did you mean {near}?" in said
    assert "commands: blacklist, check, example, fire" in said


def test_every_command_begins_its_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Which is a command line that parses."""
    for name in {*OWN, *cli.installed()}:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        shown = capsys.readouterr().out
        example = next(line.strip() for line in shown.split("\n\n")[1].splitlines())
        words = shlex.split(example.partition("|")[0].partition(">")[0])
        assert words[words.index("agentd") + 1] == name
        cli.parse(words[words.index("agentd") + 1 :])


def test_parser_of_all_has_every_argument() -> None:
    """For completion and man pages."""
    parser = cli.parser_of_all(OWN, complete=True)
    assert parser.parse_args(["history", "--limit", "3"]).limit == 3
    assert parser.parse_args(["blacklist", "why", "192.0.2.1"]).address == "192.0.2.1"


def test_public_names_are_what_they_say() -> None:
    """Each name of `agentd.command` is there, and in its table of places."""
    assert set(command_api.__all__) == set(command_api._PLACES)
    for name in command_api.__all__:
        assert getattr(command_api, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = command_api.nothing

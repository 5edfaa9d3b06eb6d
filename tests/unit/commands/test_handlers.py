"""`agentd handlers`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from agentd.cli import main
from agentd.commands.option_text import options_of
from agentd.config.plugins import available
from agentd.handler import Duration, HandlerOptions

CONFIGURED = """\
handlers:
  tell: {use: command, on: [{event: a}], options: {argv: [/bin/true]}}
  odd: {use: "tests.no_such_module:Odd", on: [{event: a}]}
"""


class Every(HandlerOptions):
    """One field of each kind that an option may be."""

    needed: str
    wait: Duration = 90.0
    maybe: Duration | None = None
    words: tuple[str, ...] = ("a",)
    table: dict[str, int] = Field({}, description="A table.")
    choice: Literal["x", "y"] = "x"
    path: Path = Path("/tmp")
    small: Annotated[int, Field(ge=1)] = 3
    on: bool = True
    names: frozenset[str] = frozenset({"b", "a"})


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration that uses one handler that is installed and one that is not."""
    file = tmp_path / "agentd.yaml"
    file.write_text(CONFIGURED)
    return str(file)


def test_installed_handlers_are_listed_without_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list needs no configuration file."""
    main(["handlers", "--config", str(tmp_path / "absent.yaml")])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} >= {"command", "nginx_reload"}


def test_configured_ones_are_marked(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The entry that uses a handler stands beside it."""
    main(["handlers", "--config", config, "--json"])
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["command"]["configured"] == ["tell"]
    assert found["nginx_reload"]["configured"] == []


def test_broken_one_is_listed_with_its_error_beside_the_others(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A handler that cannot be imported hides no other; the status tells."""
    assert main(["handlers", "--config", config]) == 1
    said = capsys.readouterr().out
    assert "broken: there is no module 'tests.no_such_module'" in said
    assert "Runs a program for each change" in said


def test_one_in_detail_shows_its_options(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, type, default and meaning of each option."""
    assert main(["handlers", "--config", config, "nginx_reload"]) == 0
    said = capsys.readouterr().out
    assert "Name it in `notify`" in said
    assert re.search(r"interval +duration +1s ", said)


def test_unknown_one_is_told_what_is_known(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name lists the right ones."""
    assert main(["handlers", "--config", config, "nginx"]) == 1
    assert "there is no handler 'nginx'; known: command, " in capsys.readouterr().out


ENTRIES = """\
handlers:
  tell:
    use: command
    on: [{event: a}]
    options:
      shell: "notify --token s3cret -v; curl -H key=s3cret https://me:s3cret@example.com"
      argv: [/bin/tell, --password, s3cret, --user, me]
      env: {MODE: s3cret, LANG: s3cret}
      tiemout: 5s
  deploy: {use: command, options: {argv: [/bin/true]}}
"""


def test_a_configured_one_shows_what_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the defaults, with what it is given, and with an option that there is not."""
    (tmp_path / "agentd.yaml").write_text(ENTRIES)

    assert main(["handlers", "--config", str(tmp_path / "agentd.yaml"), "tell"]) == 0

    said = capsys.readouterr().out
    assert re.search(r"configured as +tell\nhandler +command\non +\[\{\"event\": \"a\"\}\]", said)
    assert re.search(r"OPTION +SET TO +TYPE +DEFAULT", said)
    assert re.search(r"background +- +\"keep\"", said)
    assert "There is no option 'tiemout'" in said


def test_no_secret_of_it_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Variables, and what follows the name of a secret in a command line or stands in an address."""
    (tmp_path / "agentd.yaml").write_text(ENTRIES)

    for options in ([], ["--json"]):
        main(["handlers", "--config", str(tmp_path / "agentd.yaml"), "tell", *options])

    said = capsys.readouterr().out
    assert "s3cret" not in said
    for kept in ("--user", "/bin/tell", "MODE", "...@example.com"):
        assert kept in said


def test_one_that_is_both_is_shown_as_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry may have the name of a handler that it does not use."""
    (tmp_path / "agentd.yaml").write_text(ENTRIES)

    assert main(["handlers", "--config", str(tmp_path / "agentd.yaml"), "deploy"]) == 0

    first, _, second = capsys.readouterr().out.partition("An installed handler is called 'deploy' as well")
    assert re.search(r"configured as +deploy\nhandler +command", first)
    assert "Deploys an archive" in second


def test_a_configuration_that_cannot_be_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not taken for one without handlers."""
    (tmp_path / "agentd.yaml").write_text("handlers: [")

    assert main(["handlers", "--config", str(tmp_path / "agentd.yaml")]) == 0

    assert "The configuration was not read: " in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(available()))
def test_it_speaks_to_users(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in the words of the API."""
    assert main(["handlers", name, "--config", str(tmp_path / "absent.yaml")]) == 0

    said = capsys.readouterr().out
    assert not re.search(
        r"\bstag(e|es|ed|ing)\b|(Temporary|Permanent)Error|\bcontext\.|\bself\b|docstring", said
    )


def test_options_of_sections_are_listed_as_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Those of each list of a blacklist, for example."""
    main(["handlers", "ip_blacklist", "--config", str(tmp_path / "absent.yaml")])

    assert re.search(r"Options of `lists.NAME`:\n.*\nreference ", capsys.readouterr().out)


def test_options_are_described_in_the_words_of_the_file() -> None:
    """Types and defaults as one writes them in YAML."""
    told = {name: (one["type"], one["default"]) for name, one in options_of(Every).items()}
    assert told == {
        "needed": ("text", "required"),
        "wait": ("duration", "90s"),
        "maybe": ("duration or null", "null"),
        "words": ("list of text", '["a"]'),
        "table": ("map of integer", "{}"),
        "choice": ('"x" or "y"', '"x"'),
        "path": ("path", '"/tmp"'),
        "small": ("integer", "3"),
        "on": ("true or false", "true"),
        "names": ("list of text", '["a", "b"]'),
    }

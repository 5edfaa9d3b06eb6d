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
    assert "handlers.command:Command" in said


def test_one_in_detail_shows_its_options(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, type, default and meaning of each option."""
    assert main(["handlers", "--config", config, "nginx_reload"]) == 0
    said = capsys.readouterr().out
    assert "proves reloads  yes" in said
    assert re.search(r"interval +duration +1s ", said)


def test_unknown_one_is_told_what_is_known(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name lists the right ones."""
    assert main(["handlers", "--config", config, "nginx"]) == 1
    assert "there is no handler 'nginx'; known: command, " in capsys.readouterr().out


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

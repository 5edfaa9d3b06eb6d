"""scripts/shell_files.py: the completions and man pages have every command and every option."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import cli
from agentd.commands import OWN
from agentd.commands.parser import Parser

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "shell_files.py"
SHELLS = {"bash": "bash/agentd", "zsh": "zsh/_agentd", "fish": "fish/agentd.fish"}


def pages(parser: Parser) -> Iterator[Parser]:
    """The parsers of all commands and verbs below this one."""
    below = dict(parser.verbs)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below |= action.choices
    for one in below.values():
        yield one
        yield from pages(one)


PAGES = list(pages(cli.parser_of_all(OWN, complete=True)))


def write(directory: Path) -> dict[str, str]:
    """All files, by their path below `directory`."""
    subprocess.run(
        [sys.executable, SCRIPT, directory],
        check=True,
        env={"SOURCE_DATE_EPOCH": "1700000000", "AGENTD_CONFIG": "/home/ops/own.yaml", "COLUMNS": "300"},
    )
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in found}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the script writes."""
    return write(tmp_path_factory.mktemp("shell"))


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_has_every_command_and_option(shell: str, written: dict[str, str]) -> None:
    """Whatever the parser takes can be completed."""
    text = written[f"completions/{SHELLS[shell]}"]
    for page in PAGES:
        assert page.prog.split()[-1] in text
        for option in page._option_string_actions:
            assert option.lstrip("-") in text


def test_man_pages_have_every_command_and_option(written: dict[str, str]) -> None:
    """Each command has a page, with its verbs and all that they take, and agentd(1) names it."""
    top = written["man/man1/agentd.1"].replace("\\-", "-")
    for page in PAGES:
        name = page.prog.split()[1]
        text = written[f"man/man1/agentd-{name}.1"].replace("\\-", "-")
        assert f"agentd-{name} (1)" in top
        assert page.prog.upper() in text.replace("AGENTD-", "AGENTD ")
        for option in page._option_string_actions.keys() - {"-h", "--help"}:
            assert option in text
        for example in page.examples:
            assert example.replace("\\", "\\e") in text


def test_man_page_has_the_usual_sections_and_date(written: dict[str, str]) -> None:
    """It is dated by SOURCE_DATE_EPOCH."""
    text = written["man/man1/agentd-history.1"]
    headings = re.findall(r"^\.SH (.*)$", text, re.MULTILINE)
    assert "2023-11-14" in text.splitlines()[0]
    assert " ".join(headings) == (
        "NAME SYNOPSIS DESCRIPTION OPTIONS EXAMPLES EXIT STATUS ENVIRONMENT FILES SEE ALSO"
    )


def test_files_do_not_depend_on_who_writes_them(written: dict[str, str], tmp_path: Path) -> None:
    """Written twice, they are the same, and nothing in them is from this machine's environment."""
    assert write(tmp_path) == written
    assert not any("/home/ops" in text or str(SCRIPT.parents[1]) in text for text in written.values())


def test_usage_without_a_directory() -> None:
    """The script says how it is called."""
    ended = subprocess.run([sys.executable, SCRIPT], check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "DIRECTORY" in ended.stderr

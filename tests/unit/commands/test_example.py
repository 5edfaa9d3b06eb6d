"""`agentd example`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agentd import shipped
from agentd.cli import main
from agentd.commands.example import catalogue, files_of, summary

_EVERY = catalogue(shipped.directory())
_DIRECTORIES = {name: one for name, one in _EVERY.items() if one.is_dir()}
_FILES = {
    f"{name}/{file}": path for name, one in _DIRECTORIES.items() for file, path in files_of(one).items()
}


def test_each_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line; the examples first, then the rest of what comes with agentd."""
    assert main(["example"]) == 0

    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(_EVERY)
    assert "deploy.yaml" in _EVERY
    assert not [line for line in lines if len(line.split()) < 3]
    assert not [name for name in _EVERY if "requirements" in name or "pyc" in name]


@pytest.mark.parametrize("name", [*_FILES, *(name for name, one in _EVERY.items() if one.is_file())])
def test_each_file_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, so that the output can be redirected to where the file is wanted."""
    assert main(["example", name]) == 0

    assert capsys.readouterr().out == (_EVERY | _FILES)[name].read_text()


def test_a_directory_lists_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    """By the names that print them."""
    assert main(["example", "application"]) == 0

    said = capsys.readouterr().out
    assert "application/agentd.yaml  Load balancer of an application" in said
    assert "agentd example application --to DIR" in said


def test_all_of_a_kind_can_be_had_together(tmp_path: Path) -> None:
    """Such as what nginx needs for dynamic upstreams."""
    assert main(["example", "nginx", "--to", str(tmp_path)]) == 0

    assert {"dynamic-upstream.conf", "dynamic_upstream.lua"} <= {one.name for one in tmp_path.iterdir()}


def test_every_one_that_agentd_names_is_there(tmp_path: Path) -> None:
    """In its messages, its descriptions of options, and its pages."""
    root = shipped.directory()
    every = [path for place in ("agentd", "handlers") for path in (root / place).rglob("*.py")]
    texts = [path.read_text() for path in (*every, root / "README.md", *(root / "docs").glob("*.md"))]
    named = {name for text in texts for name in re.findall(r"`agentd example ([a-z][\w./-]*)", text)}

    assert {"nginx", "consul/node.hcl"} <= named
    for number, name in enumerate(named):
        assert main(["example", name, "--to", str(tmp_path / str(number))]) == 0


def test_a_file_goes_without_its_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    """As one speaks of it."""
    assert main(["example", "deploy", "--json"]) == 0

    assert list(json.loads(capsys.readouterr().out)) == ["deploy.yaml"]


@pytest.mark.parametrize(
    "name, told",
    [("aplication", "did you mean 'application'?"), ("../agentd.yaml", "`agentd example` lists them")],
)
def test_an_unknown_one_is_an_error(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names are looked up, and never used as a path."""
    assert main(["example", name]) == 1

    assert told in capsys.readouterr().err


def test_a_whole_one_is_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the directories that are missing; a second time there is nothing to do."""
    to = tmp_path / "new" / "here"

    assert main(["example", "application", "--to", str(to)]) == 0
    assert {one.name: one.read_bytes() for one in to.iterdir()} == {
        name: path.read_bytes() for name, path in files_of(_EVERY["application"]).items()
    }
    assert (to / "nginx.conf").stat().st_mode & 0o777 == 0o644
    capsys.readouterr()
    assert main(["example", "application", "--to", str(to)]) == 0
    assert capsys.readouterr().out == "3 of 3 files were there already, and are the same.\n"


@pytest.mark.parametrize("way", ["differs", "link", "directory"])
def test_nothing_is_replaced(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file in the way, and no other is copied either."""
    blocked = tmp_path / "nginx.conf"
    if way == "differs":
        blocked.write_text("mine")
    elif way == "link":
        blocked.symlink_to(tmp_path / "absent")
    else:
        blocked.mkdir()

    assert main(["example", "application", "--to", str(tmp_path)]) == 1

    assert [one.name for one in tmp_path.iterdir()] == ["nginx.conf"]
    assert "nothing has been copied: move it away" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("a.conf", "# One thing: and more. That\n# too.\nb;", "One thing: and more"),
        ("b.conf", "# This way:\n# - one\n", "This way"),
        ("a.hcl", "\n# First.\n\n# Second.\n", "First"),
        ("a.lua", "-- It goes on\n-- here\nlocal a", "It goes on here"),
        ("a.py", '# ruff: noqa\n"""What it does. And how."""', "What it does"),
        ("a.json", '{"title": "A board"}', "A board"),
        ("b.json", "[]", ""),
        ("a.yaml", "a: 1 # no first comment", ""),
    ],
)
def test_what_it_is_comes_from_its_first_comment(name: str, text: str, told: str, tmp_path: Path) -> None:
    """Its first sentence, in whichever language; a board has a title instead."""
    (tmp_path / name).write_text(text)

    assert summary(tmp_path / name) == told

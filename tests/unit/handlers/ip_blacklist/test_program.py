"""Programs that misbehave: the error names the program and says what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import TemporaryError
from handlers.ip_blacklist import ipset, nftables, program

Make = Callable[[str], str]
LISTED = '{"nftables": [{"set": {"type": "ipv4_addr", "flags": ["interval"], "elem": [%s]}}]}'


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a program of a line of shell; returns its path."""

    def made(line: str) -> str:
        file = tmp_path / "program"
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
        return str(file)

    return made


@pytest.mark.parametrize(
    "line,said",
    [
        ("kill -9 $$", "was ended by signal 9"),
        ("printf '\\377' >&2; exit 3", "ended with status 3: \ufffd"),
        ("exit 3", "ended with status 3: it printed no error"),
    ],
)
def test_what_a_program_did_is_said(make: Make, line: str, said: str) -> None:
    """Whichever question it was asked, with the whole command."""
    path = make(line)
    questions: list[tuple[Callable[[], object], str]] = [
        (lambda: ipset.present(path, "agentd4"), "save agentd4"),
        (lambda: ipset.holds(path, "agentd4", "192.0.2.1"), "test agentd4 192.0.2.1"),
        (lambda: nftables.present(path, "blocked4"), "-j list set inet agentd blocked4"),
        (
            lambda: nftables.holds(path, "blocked4", "192.0.2.1"),
            "get element inet agentd blocked4 { 192.0.2.1 }",
        ),
    ]
    for ask, command in questions:
        with pytest.raises(TemporaryError) as raised:
            ask()
        assert str(raised.value) == f"`{path} {command}` {said}"


def test_a_program_that_hangs_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was asked is said."""
    monkeypatch.setattr(program, "_SECONDS", 0.1)

    with pytest.raises(
        TemporaryError, match=r"program save agentd4` did not end within 0.1 s and was killed"
    ):
        ipset.present(make("exec sleep 60"), "agentd4")


@pytest.mark.parametrize(
    "printed",
    ["", "[]", '{"nftables": [1, "set", {"set": 5}]}', '{"nftables": 7}', '{"nftables": [{"set": {}}]}'],
)
def test_what_is_no_listing_is_no_set(make: Make, printed: str) -> None:
    """It says nothing of the set, so nothing is known to be in it."""
    assert nftables.present(make(f"echo '{printed}'"), "blocked4") is None


def test_an_element_that_is_not_known(make: Make) -> None:
    """It is not left out: the set cannot be read."""
    with pytest.raises(TemporaryError, match="prints an element that is not known"):
        nftables.present(make("echo '" + LISTED % '{"x": 1}' + "'"), "blocked4")


@pytest.mark.parametrize("limit", ['"timeout": 300', '"expires": 299'])
def test_an_element_that_ends_by_itself_is_another_one(make: Make, limit: str) -> None:
    """Also where only the set has a timeout, which its elements do not repeat."""
    element = '{"elem": {"val": "192.0.2.1", ' + limit + "}}"

    assert nftables.present(make("echo '" + LISTED % element + "'"), "blocked4") == {"192.0.2.1 timeout"}

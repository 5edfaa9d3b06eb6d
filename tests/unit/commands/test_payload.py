"""What a command sends, and where on the command line it may stand."""

from __future__ import annotations

import pytest

from agentd.commands.parser import Parser
from agentd.commands.payload import add_payload_arguments, read_payload
from agentd.errors import ConfigError


@pytest.fixture
def parser() -> Parser:
    """One of a command with a name, a payload and another option."""
    made = Parser()
    made.add_argument("name")
    add_payload_arguments(made)
    made.add_argument("--other")
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["a", "payload", "--other", "x"],
        ["--other", "x", "a", "payload"],
        ["a", "--other", "x", "payload"],
        ["a", "--other", "x", "--", "payload"],
    ],
)
def test_options_may_stand_anywhere(parser: Parser, words: list[str]) -> None:
    """Before, after and between the name and the payload."""
    found = parser.parse_args(words)
    assert (found.name, found.payload, found.other) == ("a", "payload", "x")


@pytest.mark.parametrize(
    "words", [[], ["--other", "x"], ["a", "b", "c"], ["a", "--unknown"], ["a", "--other"]]
)
def test_wrong_usage_is_still_wrong(parser: Parser, words: list[str]) -> None:
    """Every time that it is parsed."""
    for _ in range(2):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(words)


def test_a_payload_may_begin_with_a_hyphen(parser: Parser) -> None:
    """After the two hyphens that end the options."""
    assert read_payload(parser.parse_args(["a", "--", "-x"]), 10) == b"-x"


def test_nothing_is_an_empty_payload(parser: Parser) -> None:
    """Which is what a doorbell needs."""
    assert read_payload(parser.parse_args(["a"]), 10) == b""


def test_two_payloads_are_one_too_many(parser: Parser) -> None:
    """Which one was meant is not guessed."""
    with pytest.raises(ConfigError, match="not both"):
        read_payload(parser.parse_args(["a", "x", "--file", "y"]), 10)


@pytest.mark.parametrize("words", [["add", "s3cret", "s3cret"], ["-s3cret"], ["a", "--payload=s3cret"]])
def test_what_may_be_part_of_a_payload_is_not_shown(
    parser: Parser, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgot the quotes has a terminal, or a job's log, that others read."""
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["name", *words])
    told = capsys.readouterr().err
    assert "s3cret" not in told
    assert "put quotes around a payload of several words" in told

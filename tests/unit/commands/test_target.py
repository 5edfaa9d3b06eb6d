"""Whom a message is for, as it is typed."""

from __future__ import annotations

from argparse import Namespace

import pytest

from agentd.commands.parser import Parser
from agentd.commands.target import add_target_arguments, check_target, described
from agentd.errors import ConfigError
from agentd.fleet.envelope import Draft, Envelope


def parsed(*words: str) -> Namespace:
    """The arguments of a command that has a target."""
    parser = Parser()
    add_target_arguments(parser)
    return parser.parse_args(words)


def message(node: str = "", service: str = "") -> Envelope:
    """One for these."""
    return Draft(b"", 1.0, "ops@host", node=node, service=service).numbered("edge", "list", 7, 0)


def test_a_tag_needs_its_service() -> None:
    """As in Consul."""
    check_target(parsed("--tag", "edge", "--service", "nginx"))
    with pytest.raises(ConfigError, match="give --service as well"):
        check_target(parsed("--tag", "edge"))


@pytest.mark.parametrize("pattern", ["", "(", "a\nb", "x" * 513, "(a*)*", "(a|b)+c", r"(a)\1"])
def test_what_no_node_would_match_is_wrong_usage(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No regular expression, or one that could take long: nodes do not try those."""
    with pytest.raises(SystemExit, match="2"):
        parsed("--node", pattern)
    assert "expression" in capsys.readouterr().err


def test_a_target_is_described_in_the_words_that_were_typed() -> None:
    """All nodes have none."""
    assert described(message("^web", "nginx")) == "node=^web service=nginx"
    assert not described(message())

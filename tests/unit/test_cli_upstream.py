"""`agentd upstream`: what may be typed. What it does needs servers: see tests/integration."""

from __future__ import annotations

import pytest

from agentd.cli import _parser, main

WHERE = ["--upstream", "app", "--on", "lb"]


def test_defaults_of_down() -> None:
    """One server must be left, and one failure undoes all."""
    found = _parser().parse_args(["upstream", "down", "10.0.0.1:080", *WHERE])
    assert (found.action, found.server, found.min_servers, found.keep_going) == (
        "down",
        "10.0.0.1:80",
        1,
        False,
    )
    assert (found.upstream, found.on, found.path, found.timeout, found.passing) == (
        *("app", "lb", "/dynamic", 3.0),
        False,
    )


def test_options_of_all_commands_stand_anywhere() -> None:
    """Before the command, or at its very end."""
    for line in (["--json", "upstream", "list", *WHERE], ["upstream", "list", *WHERE, "--json"]):
        assert _parser().parse_args(line).json is True


def test_last_server_may_be_taken_on_demand() -> None:
    """With 0 nothing need be left."""
    found = _parser().parse_args(["upstream", "down", "10.0.0.1:80", *WHERE, "--min-servers", "0"])
    assert found.min_servers == 0


@pytest.mark.parametrize(
    "line",
    [
        ["list"],
        ["list", "--upstream", "app"],
        ["list", "10.0.0.1:80", *WHERE],
        ["down", *WHERE],
        ["down", "web1:80", *WHERE],
        ["drain", "10.0.0.1:80", *WHERE],
        ["weight", "10.0.0.1:80", *WHERE],
        ["weight", "10.0.0.1:80", "0", *WHERE],
        ["up", "10.0.0.1:80", "--upstream", "a&b", "--on", "lb"],
        ["up", "10.0.0.1:80", *WHERE, "--path", "dynamic"],
        ["up", "10.0.0.1:80", *WHERE, "--timeout", "0"],
        ["up", "10.0.0.1:80", *WHERE, "--timeout", "2m"],
    ],
)
def test_wrong_usage_ends_with_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before the configuration is read, and nothing is sent."""
    with pytest.raises(SystemExit) as ended:
        main(["upstream", *line])
    assert ended.value.code == 2
    assert "usage: agentd" in capsys.readouterr().err

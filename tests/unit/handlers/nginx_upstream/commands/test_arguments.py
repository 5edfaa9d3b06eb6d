"""`agentd upstream`: what may be typed. What it does needs servers: see tests/integration."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agentd.cli import main, parse

WHERE = ["--upstream", "app", "--on", "lb"]


def test_defaults_of_down() -> None:
    """One server must be left, and one failure undoes all."""
    found = parse(["upstream", "down", "10.0.0.1:080", *WHERE])[1]
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
        assert parse(line)[1].json is True


def test_last_server_may_be_taken_on_demand() -> None:
    """With 0 nothing need be left."""
    found = parse(["upstream", "down", "10.0.0.1:80", *WHERE, "--min-servers", "0"])[1]
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


@pytest.mark.parametrize("path", ["dynamic", "/a?b", "/a b", "/a\r\n", "/" + "x" * 201, ""])
def test_path_is_a_plain_path(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is sent as it is."""
    with pytest.raises(SystemExit):
        main(["upstream", "list", *WHERE, f"--path={path}"])
    assert "give a path such as /dynamic" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["upstream", "rolling"])
def test_parsing_needs_neither_the_handler_nor_consul(module: str) -> None:
    """Help and wrong usage come at once."""
    script = f"import sys, handlers.nginx_upstream.commands.{module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"pydantic", "jinja2", "agentd.watch.client", "handlers.nginx_upstream.handler"}
    assert not heavy & set(found.split())

"""`agentd lock`: what may be typed. What it does needs a Consul: see tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.cli import _parser, main


@pytest.mark.parametrize(
    "line,argv",
    [
        (["p", "--", "echo", "-n", "a"], ["echo", "-n", "a"]),
        (["-n", "2", "p", "--timeout", "5s", "--", "echo", "--", "a"], ["echo", "--", "a"]),
        (["p", "--verbose", "--", "--", "a"], ["--", "a"]),
    ],
)
def test_what_follows_the_dashes_is_the_command(line: list[str], argv: list[str]) -> None:
    """As it stands, dashes of its own included."""
    assert _parser().parse_args(["lock", *line]).argv == argv


def test_options_stand_on_either_side_of_the_prefix() -> None:
    """And before the command's name those that all commands have."""
    found = _parser().parse_args(["--json", "lock", "/locks/p/", "-n", "3", "--timeout", "1m", "--", "true"])
    assert (found.prefix, found.n, found.timeout, found.json) == ("locks/p", 3, 60.0, True)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["p"],
        ["p", "--"],
        ["p", "true"],
        ["--", "true"],
        ["../p", "--", "true"],
        ["p", "-n", "0", "--", "true"],
        ["p", "--timeout", "soon", "--", "true"],
    ],
)
def test_wrong_usage_ends_with_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before the configuration is read."""
    with pytest.raises(SystemExit) as ended:
        main(["lock", *line])
    assert ended.value.code == 2
    assert "usage: agentd lock" in capsys.readouterr().err


def test_command_that_is_not_there_ends_with_127(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a shell, and before the lock is taken."""
    assert main(["lock", "p", "--", "no-such-program"]) == 127
    assert capsys.readouterr().err == "agentd: no-such-program cannot be found, or is no program\n"


def test_consul_that_is_away_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, with the address."""
    file = tmp_path / "agentd.yaml"
    file.write_text(
        f"consul: {{address: unix://{tmp_path}/none.sock}}\n"
        "handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n"
    )
    assert main(["lock", "--config", str(file), "p", "--", "true"]) == 1
    assert f"unix://{tmp_path}/none.sock" in capsys.readouterr().err

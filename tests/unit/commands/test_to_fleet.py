"""Which fleet a command means, and where it finds it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.commands.parser import DEFAULT, Parser, add_common
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import ConfigError

Filed = Callable[[str], str]


@pytest.fixture
def filed(tmp_path: Path) -> Filed:
    """Writes a configuration file, and returns its path."""

    def write(text: str) -> str:
        file = tmp_path / "agentd.yaml"
        file.write_text(text)
        return str(file)

    return write


def parsed(*words: str) -> argparse.Namespace:
    """The arguments of a command that reaches a fleet."""
    parser = Parser()
    add_common(parser, config=DEFAULT, as_json=False)
    add_fleet_arguments(parser)
    return parser.parse_args(words)


def reached(*words: str) -> tuple[str, str | None]:
    """The name of the fleet that these words reach, and its datacenter."""
    with fleet(parsed(*words)) as found:
        return found.name, found.client.options.datacenter


def test_the_file_names_the_fleet(filed: Filed) -> None:
    """With its home datacenter; what is wrong with the handlers is not looked at."""
    assert reached("--config", filed("{fleet: {name: edge, datacenter: ams}, handlers: 7}")) == (
        "edge",
        "ams",
    )


def test_the_option_names_another_fleet(filed: Filed) -> None:
    """Which is not at home where that of the file is."""
    file = filed("{fleet: {name: edge, datacenter: ams}, consul: {datacenter: fra}}")
    assert reached("--config", file, "--fleet", "staging") == ("staging", "fra")


def test_the_datacenter_that_was_typed_counts(filed: Filed) -> None:
    """Before that of the fleet."""
    file = filed("fleet: {name: edge, datacenter: ams}")
    assert reached("--config", file, "--datacenter", "fra") == ("edge", "fra")


@pytest.mark.usefixtures("no_file")
def test_no_file_is_needed() -> None:
    """On a machine that runs no agentd the option is enough."""
    assert reached("--fleet", "edge") == ("edge", None)


@pytest.fixture
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a configuration file."""
    missing = tmp_path / "missing.yaml"
    monkeypatch.setattr("agentd.commands.parser.DEFAULT", missing)
    monkeypatch.setitem(globals(), "DEFAULT", missing)


@pytest.mark.parametrize("text", ["{handlers: {}}", "{fleet: null}"])
def test_a_file_without_a_fleet_says_what_to_add(filed: Filed, text: str) -> None:
    """There is none by default."""
    with pytest.raises(ConfigError, match=r"Add `fleet: \{name: NAME\}` .* or pass --fleet NAME"):
        reached("--config", filed(text))


@pytest.mark.parametrize(
    "text", ["{fleet: 7}", "{fleet: {}}", "{fleet: {name: a/b}}", "{fleet: {name: e, datacenter: 7}}"]
)
def test_a_wrong_section_is_told_with_its_line(filed: Filed, text: str) -> None:
    """As the daemon tells it."""
    with pytest.raises(ConfigError, match=r"agentd\.yaml:1: fleet"):
        reached("--config", filed(text))


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "a b"])
def test_a_name_that_cannot_be_a_key_is_wrong_usage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Consul is not asked."""
    with pytest.raises(SystemExit, match="2"):
        parsed("--fleet", name)
    assert "must have 1 to 64 letters" in capsys.readouterr().err


def test_trust_is_read_only_where_the_file_is_about_this_fleet(filed: Filed) -> None:
    """Its keys are those of that fleet; what is wrong with it is told only to those who need it."""
    path = filed("fleet: {name: prod}\ntrust: {require: signed}\n")
    with fleet(parsed("--config", path)) as found, pytest.raises(ConfigError, match="nobody could send"):
        found.trust()
    with fleet(parsed("--config", path, "--fleet", "other")) as found:
        assert found.trust() is None
    with fleet(parsed("--config", filed("fleet: {name: prod}\n"))) as found:
        assert found.trust() is None

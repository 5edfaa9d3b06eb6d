"""Single sections of the YAML file, whatever else is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.commands.daemon_address import DaemonAddress
from agentd.commands.places import SECTIONS, Places, read_places
from agentd.config.load import load, load_sections
from agentd.config.models import Config
from agentd.config.sections import read_document, read_section
from agentd.errors import ConfigError
from agentd.watch.options import ConsulOptions

DEFAULTS = (Path("/var/lib/agentd"), Path("/etc/nginx/agentd"), DaemonAddress("127.0.0.1", 9521))
UNNEEDED = [
    "handlers: 7",
    "handlers: {a: {use: no_such_handler}}",
    "handlers: {a: {use: 'tests.integration.broken_import:Broken'}}",
    "handlers: {a: {use: command, options: {colour: red}}}",
    "consul: {address: '://'}",
    "sources: red",
    "log: {level: loud}",
    "nginx: 7",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the configuration is."""
    return tmp_path / "agentd.yaml"


def places(file: Path, text: str) -> tuple[object, ...]:
    """State, tree and status address of this configuration."""
    file.write_text(text + "\n")
    return read_places(file)[:3]


@pytest.mark.parametrize("text", UNNEEDED)
def test_sections_that_are_not_needed_do_not_matter(file: Path, text: str) -> None:
    """However wrong they are."""
    assert places(file, text) == DEFAULTS


@pytest.mark.parametrize(
    "text",
    [
        "tree: {path: /t, keep: 5}\nstate: /s\nstatus: {address: '[::1]:80'}",
        "tree: {path: /t, keep: '5'}\nstate: /s\nstatus: {address: '[::1]:80'}",  # needs the models
    ],
)
def test_places_are_read(file: Path, text: str) -> None:
    """Plainly, or by the models where it is written in another way."""
    assert places(file, text) == (Path("/s"), Path("/t"), DaemonAddress("::1", 80))


def test_status_may_be_switched_off(file: Path) -> None:
    """With null, as the daemon takes it."""
    assert places(file, "status: {address: null}")[2] is None


@pytest.mark.parametrize(
    "text,said",
    [
        ("state: here", "agentd.yaml:1: state: the path must be absolute"),
        ("log: {}\ntree: {pth: /t}", "agentd.yaml:2: tree.pth: unknown field"),
        ("tree: {keep: 1}", "agentd.yaml:1: tree.keep: "),
        ("status: {address: '0.0.0.0:1'}", "agentd.yaml:1: status: address: "),
        ("status: {address: 7}", "agentd.yaml:1: status.address: "),
        ("tree: {5: x}", "agentd.yaml:1: tree.5: unknown field"),
        ("tree: {path: []}", "agentd.yaml:1: tree.path: a path is needed here"),
        ("tree: 7", "agentd.yaml:1: tree: a map is needed here"),
        ("stat: /s", "agentd.yaml:1: stat: unknown field"),
        ("- a", "agentd.yaml:1: the file must be a map"),
    ],
)
def test_errors_in_what_is_needed_are_told_as_the_daemon_does(file: Path, text: str, said: str) -> None:
    """With file and line."""
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as raised:
        read_places(file)
    assert said in str(raised.value)


def test_plain_reading_knows_the_sections_and_defaults_of_the_models(file: Path) -> None:
    """So that both ways of reading agree."""
    file.write_text("{}\n")
    sections = load_sections(read_document(file), ())
    assert set(Config.model_fields) == SECTIONS
    assert read_places(file) == Places(
        sections.state, sections.tree.path, DaemonAddress("127.0.0.1", 9521), ()
    )


def test_one_section_is_read_by_its_model(file: Path) -> None:
    """And its errors have their lines."""
    file.write_text("handlers: 7\nconsul: {address: '127.0.0.1:1'}\n")
    assert read_section(read_document(file), "consul", ConsulOptions).address == "127.0.0.1:1"
    file.write_text("handlers: 7\nconsul: {adress: '127.0.0.1:1'}\n")
    with pytest.raises(ConfigError, match=r":2: consul\.adress: unknown field"):
        read_section(read_document(file), "consul", ConsulOptions)


@pytest.mark.parametrize("secrets", ["/etc/nginx/agentd", "/etc/nginx/agentd/secrets", "/etc/nginx"])
def test_secrets_within_the_tree_are_refused(file: Path, secrets: str) -> None:
    """Nor may the tree be within them: what is in the tree is on the disk."""
    file.write_text(f"tree: {{secrets: {secrets}}}\n")

    with pytest.raises(ConfigError, match="outside the tree"):
        load(file)

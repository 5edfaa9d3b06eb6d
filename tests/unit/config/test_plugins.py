"""Finding handlers by name: each way in which it fails is told apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.config.load import load
from agentd.config.plugins import available, resolve, search
from agentd.errors import ConfigError
from handlers.command import Command


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory from which modules are imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("broken_handler", "motd_handler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def problem(use: str) -> str:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        resolve(use)
    [only] = caught.value.problems
    return only


def test_built_in_handlers_are_ordinary_entry_points() -> None:
    """They are found by name, and not imported for being listed."""
    assert {"command", "ip_blacklist", "nginx_reload", "tls_ticket_keys"} <= set(available())
    assert resolve("command") is Command
    assert resolve("handlers.command:Command") is Command


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The operator sees the typo."""
    text = problem("comand")

    assert text.startswith("there is no handler 'comand'; known: command, ")


@pytest.mark.parametrize(
    "use,text",
    [
        (
            "no_such_thing:X",
            "there is no module 'no_such_thing'; is its package installed, or its directory in",
        ),
        ("handlers.no_such_thing:X", "there is no module 'handlers.no_such_thing'"),
        ("agentd.handler:Nothing", "module 'agentd.handler' has no class 'Nothing'"),
        ("agentd.handler:Context", "agentd.handler:Context is not a subclass of agentd.handler.Handler"),
        ("agentd.errors:annotations", "agentd.errors:annotations is not a subclass"),
    ],
)
def test_a_module_or_class_that_is_not_there_is_told(use: str, text: str) -> None:
    """Apart from one another."""
    assert problem(use).startswith(text)


@pytest.mark.parametrize(
    "source,text",
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("from agentd.handler import Nothing", "ImportError: cannot import name 'Nothing'"),
    ],
)
def test_a_module_whose_import_fails_is_told_from_one_that_is_missing(
    package: Path, source: str, text: str
) -> None:
    """It was found, and this is what went wrong in it."""
    (package / "broken_handler.py").write_text(source, encoding="utf-8")

    told = problem("broken_handler:X")

    assert told.startswith("module 'broken_handler' was found, but an import in it failed: ")
    assert text in told


def test_a_strangers_handler_is_found_by_its_path(package: Path) -> None:
    """One file is enough."""
    (package / "motd_handler.py").write_text(
        "from agentd.handler import Handler\nclass Motd(Handler): pass\n", encoding="utf-8"
    )

    assert resolve("motd_handler:Motd").__name__ == "Motd"


@pytest.mark.parametrize(
    "field, error",
    [
        ("lock: Thing", "PydanticSchemaGenerationError"),
        ("name: 'Missing'", "PydanticUndefinedAnnotation"),
        ("name: str = Field('', pattern='[')", "SchemaError"),
    ],
)
def test_a_mistake_in_the_options_of_a_handler_is_told(package: Path, field: str, error: str) -> None:
    """When the handler is loaded, although pydantic builds a model only when it is first used."""
    (package / "motd_handler.py").write_text(f"""
from pydantic import Field
from agentd.handler import Handler, HandlerOptions

class Thing: pass

class Motd(Handler):
    class Options(HandlerOptions):
        {field}

    def handle(self, change, context): pass
""")

    assert error in problem("motd_handler:Motd")
    assert "Motd" in problem("motd_handler:Motd")


# ------------------------------------------------------------------ handlers_path


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a handler in it."""
    made = tmp_path / "handlers"
    made.mkdir(mode=0o755)
    (made / "dropped_handler.py").write_text(
        "from agentd.handler import Handler\n\n\nclass Dropped(Handler):\n    pass\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield made
    search([])
    sys.modules.pop("dropped_handler", None)


def test_a_handler_is_imported_from_a_directory_of_the_configuration(directory: Path) -> None:
    """As the daemon and the commands load it."""
    file = directory.parent / "agentd.yaml"
    file.write_text(f"handlers_path: [{directory}]\nhandlers: {{a: {{use: 'dropped_handler:Dropped'}}}}\n")
    assert load(file).handlers[0].type.__name__ == "Dropped"


def test_a_directory_shadows_nothing(directory: Path) -> None:
    """It comes after all that is installed, and is forgotten with the configuration that named it."""
    assert search([directory]) == []
    assert sys.path[-1] == str(directory)
    assert search([]) == []
    assert str(directory) not in sys.path


@pytest.mark.parametrize("name", ["handlers", "handlers/dropped_handler.py", "."])
def test_what_others_may_write_is_refused(directory: Path, name: str) -> None:
    """The directory, a module in it, and what lies above it."""
    (directory.parent / name).chmod(0o777)
    [(at, problem)] = search([directory])
    assert (at, "is writable by others, who could run code as agentd: chmod go-w" in problem) == (0, True)
    assert str(directory) not in sys.path


@pytest.mark.parametrize("name", ["package", "package/deep.so", "__pycache__/dropped_handler.pyc"])
def test_all_that_python_would_import_is_looked_at(directory: Path, name: str) -> None:
    """A compiled module is found before its source, and in a directory anybody can put one."""
    place = directory / name
    if place.suffix:
        place.parent.mkdir(exist_ok=True)
        place.touch()
    else:
        place.mkdir()
    place.chmod(0o777)
    [(_, problem)] = search([directory])
    assert f"{place} is writable by others" in problem


def test_a_link_that_others_may_replace_is_refused(directory: Path, tmp_path: Path) -> None:
    """They could lead to code of their own."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (theirs / "link").symlink_to(directory)
    [(_, problem)] = search([theirs / "link"])
    assert f"{theirs} is writable by others" in problem


def test_a_module_that_another_hides_is_told(directory: Path) -> None:
    """Python looks in its own library first."""
    hidden = directory / "json.py"
    hidden.write_text("")
    assert search([directory]) == []
    assert f"has no class 'Mine': {hidden} is hidden by " in problem("json:Mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_what_belongs_to_another_user_is_refused(directory: Path) -> None:
    """Its owner could change it."""
    os.chown(directory / "dropped_handler.py", 12345, -1)
    [(_, problem)] = search([directory])
    assert "belongs to another user" in problem


@pytest.mark.parametrize("name", ["absent", "handlers/dropped_handler.py"])
def test_what_is_no_directory_is_told_with_its_line(directory: Path, name: str) -> None:
    """Beside what is then missing."""
    file = directory.parent / "agentd.yaml"
    place = directory.parent / name
    file.write_text(f"handlers: {{a: {{use: 'dropped_handler:Dropped'}}}}\nhandlers_path:\n- {place}\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert f"{file}:3: handlers_path.0: {place} is not a directory" in caught.value.problems


def test_a_relative_directory_is_refused(tmp_path: Path) -> None:
    """It would depend on where agentd was started."""
    (tmp_path / "agentd.yaml").write_text("handlers_path: [here]\nhandlers: {a: {use: command}}\n")
    with pytest.raises(ConfigError, match=r"handlers_path\.0: the path must be absolute"):
        load(tmp_path / "agentd.yaml")

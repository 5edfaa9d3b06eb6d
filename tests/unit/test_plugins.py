"""Finding handlers by name: each way in which it fails is told apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentd.errors import ConfigError
from agentd.plugins import available, resolve
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
        ("no_such_thing:X", "there is no module 'no_such_thing'; is its package installed?"),
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

"""`agentd handlers`: the installed handlers, what they are for, and their options with types and defaults.

A handler that cannot be imported is listed with its error, and does not hide the others.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.commands import argument_types
from agentd.commands.option_text import options_of
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.config.load import HandlerEntry, load_sections
from agentd.config.plugins import available, resolve, search
from agentd.config.sections import read_document
from agentd.errors import ConfigError
from agentd.handler import Handler


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed handler; `type` is None if it cannot be imported, and then `error` says why."""

    name: str
    reference: str
    type: type[Handler] | None = None
    error: str | None = None
    configured: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The first line of the class's docstring, or why there is none."""
        return (inspect.getdoc(self.type) or "").partition("\n")[0] if self.type else f"broken: {self.error}"


def add_arguments(parser: Parser) -> None:
    """Which handler."""
    parser.add_example("agentd handlers", "agentd handlers nginx_upstream")
    parser.add_argument(
        "name", nargs="?", type=argument_types.word, metavar="NAME", help="show this one in detail"
    )


def execute(arguments: Namespace, output: Output) -> int:
    """List all, or print one in detail; 1 if one cannot be imported."""
    used = _used(arguments.config)
    names = [arguments.name] if arguments.name else sorted({*available(), *used})
    found = [_find(name, used.get(name, [])) for name in names]
    if output.json:
        output.document([_document(one) for one in found])
    elif arguments.name:
        _detail(found[0], output)
    else:
        rows = [(one.name, ", ".join(one.configured), one.reference, one.summary) for one in found]
        output.table(
            ("HANDLER", "CONFIGURED AS", "CLASS", "WHAT IT DOES"), rows, empty="No handler is installed."
        )
    return int(any(one.error for one in found))


def _used(path: Path) -> dict[str, list[str]]:
    """What `use:` names -> the configured handlers; empty when the configuration cannot be read."""
    try:
        document = read_document(path)
        search(load_sections(document, ("handlers_path",)).handlers_path)
    except ConfigError:
        return {}
    entries = document.data.get("handlers")
    used: dict[str, list[str]] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("use"), str):
            used.setdefault(entry["use"], []).append(str(name))
    return used


def _find(name: str, configured: list[str]) -> Installed:
    point = available().get(name)
    reference = point.value if point else name
    try:
        return Installed(name, reference, resolve(name), configured=configured)
    except ConfigError as error:
        return Installed(name, reference, error=str(error), configured=configured)


def _document(one: Installed) -> dict[str, Any]:
    return {
        "name": one.name,
        "class": one.reference,
        "configured": one.configured,
        "summary": one.summary,
        "error": one.error,
        "options": options_of(one.type.Options) if one.type else {},
    }


def _detail(one: Installed, output: Output) -> None:
    output.pairs(
        {
            "handler": one.name,
            "class": one.reference,
            "configured as": ", ".join(one.configured),
            "proves reloads": bool(one.type and one.type.proves),
            **({"broken": one.error} if one.error else {"what it does": inspect.getdoc(one.type) or ""}),
        }
    )
    if one.type:
        options = options_of(one.type.Options)
        rows = [
            (name, option["type"], option["default"], option["description"])
            for name, option in options.items()
        ]
        output.line()
        output.table(("OPTION", "TYPE", "DEFAULT", "MEANING"), rows, empty="This handler has no options.")
        common = ", ".join(name for name in HandlerEntry.model_fields if name != "options")
        output.line(f"Every entry under `handlers:` also takes: {common}.", "dim")

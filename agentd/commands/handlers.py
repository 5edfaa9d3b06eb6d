"""`agentd handlers`: the installed handlers, what they are for, and their options with types and defaults.

One may also be named as it is configured; its options are then shown as they are set. A handler that cannot
be imported is listed with its error, and does not hide the others.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.commands import argument_types
from agentd.commands.option_text import options_of, sections_of
from agentd.commands.output import Output, shown
from agentd.commands.parser import Parser
from agentd.commands.set_options import set_options
from agentd.config.load import HandlerEntry, load_sections
from agentd.config.plugins import available, resolve, search
from agentd.config.sections import read_document
from agentd.errors import ConfigError
from agentd.handler import Handler


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed handler; `type` is None if it cannot be imported, and then `error` says why.

    Attributes:
        name: what `use` calls it.
        reference: where its class is.
        configured: the names of the entries that use it.
        entry: the one that was asked for, by its name; None if the handler itself was.
        values: of that entry, as they are in the file.
    """

    name: str
    reference: str
    type: type[Handler] | None = None
    error: str | None = None
    configured: list[str] = field(default_factory=list)
    entry: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the class's docstring, or why there is none."""
        return (inspect.getdoc(self.type) or "").partition("\n")[0] if self.type else f"broken: {self.error}"


@dataclass(frozen=True, slots=True)
class Configured:
    """What the configuration says of handlers.

    Attributes:
        entries: by name, those that say which handler they `use`.
        problem: why it could not be read; "" if it could.
    """

    entries: Mapping[str, Mapping[str, Any]]
    problem: str = ""

    def users(self, handler: str) -> list[str]:
        """The entries that use this handler."""
        return [name for name, entry in self.entries.items() if entry["use"] == handler]


def add_arguments(parser: Parser) -> None:
    """Which handler."""
    parser.add_example("agentd handlers", "agentd handlers nginx_upstream", "agentd handlers blacklist")
    parser.add_exit_status("0 if all can be imported; 1 if one cannot.")
    parser.add_argument(
        "name",
        nargs="?",
        type=argument_types.word,
        metavar="NAME",
        help="show this one in detail: an installed handler, or one of the configuration as it is set there",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """List all, or print one in detail; 1 if one cannot be imported."""
    configured = _configured(arguments.config)
    found = _named(arguments.name, configured) if arguments.name else _all(configured)
    if output.json:
        output.document([_document(one) for one in found])
    elif arguments.name:
        for at, one in enumerate(found):
            if at:
                output.line()
                output.line(f"An installed handler is called {one.name!r} as well:", "bold")
            _detail(one, output)
    else:
        rows = [(one.name, ", ".join(one.configured), one.summary) for one in found]
        output.table(("HANDLER", "CONFIGURED AS", "WHAT IT DOES"), rows, empty="No handler is installed.")
    if configured.problem:
        output.line(f"The configuration was not read: {configured.problem}", "yellow")
    return int(any(one.error for one in found))


def _configured(path: Path) -> Configured:
    """What the file says; a list of what is installed needs none, but says what is wrong with it."""
    try:
        if not path.exists():
            return Configured({})
        document = read_document(path)
        search(load_sections(document, ("handlers_path",)).handlers_path)
    except ConfigError as error:
        return Configured({}, "; ".join(error.problems))
    except PermissionError as error:  # its directory
        return Configured({}, f"{path}: {error.strerror}")
    entries = document.data.get("handlers")
    known = entries.items() if isinstance(entries, dict) else ()
    return Configured(
        {
            str(name): entry
            for name, entry in known
            if isinstance(entry, dict) and isinstance(entry.get("use"), str)
        }
    )


def _all(configured: Configured) -> list[Installed]:
    used = (entry["use"] for entry in configured.entries.values())
    return [_find(name, configured) for name in sorted({*available(), *used})]


def _named(name: str, configured: Configured) -> list[Installed]:
    """The configured one of this name, the installed one, or both if they are not the same."""
    entry = configured.entries.get(name)
    if entry is None:
        return [_find(name, configured)]
    found = [_find(entry["use"], configured, name)]
    if name != entry["use"] and name in available():
        found.append(_find(name, configured))
    return found


def _find(name: str, configured: Configured, entry: str | None = None) -> Installed:
    point = available().get(name)
    reference = point.value if point else name
    users, values = configured.users(name), configured.entries[entry] if entry else {}
    try:
        return Installed(name, reference, resolve(name), None, users, entry, values)
    except ConfigError as error:
        names = ", ".join(configured.entries)
        known = f"; configured are: {names}" if names and entry is None and not users else ""
        return Installed(name, reference, None, f"{error}{known}", users, entry, values)


def _document(one: Installed) -> dict[str, Any]:
    options = options_of(one.type.Options) if one.type else {}
    told = set_options(one.values.get("options"))
    return {
        "name": one.name,
        "class": one.reference,
        "configured": one.configured,
        "summary": one.summary,
        "error": one.error,
        "entry": one.entry,
        "options": {
            name: option | ({} if one.entry is None else {"set": told.get(name)})
            for name, option in options.items()
        },
    }


def _detail(one: Installed, output: Output) -> None:
    says = {"broken": one.error} if one.error else {"what it does": inspect.getdoc(one.type) or ""}
    if one.entry is None:
        output.pairs({"handler": one.name, "configured as": ", ".join(one.configured), **says})
    else:
        common = {name: shown(value) for name, value in one.values.items() if name not in ("use", "options")}
        output.pairs({"configured as": one.entry, "handler": one.name, **common, **says})
    if one.type:
        output.line()
        _options(one, one.type.Options, output)
        for name, model in sections_of(one.type.Options):
            output.line()
            output.line(f"Options of `{name}`:")
            output.table(("OPTION", "TYPE", "DEFAULT", "MEANING"), _rows(model))
        common_fields = ", ".join(name for name in HandlerEntry.model_fields if name != "options")
        output.line(f"Every entry under `handlers:` also takes: {common_fields}.", "dim")


def _options(one: Installed, model: type, output: Output) -> None:
    """The table of them; of a configured one with the values that are set, and those that there are not."""
    rows = _rows(model)
    if one.entry is None:
        output.table(("OPTION", "TYPE", "DEFAULT", "MEANING"), rows, empty="This handler has no options.")
        return
    told = set_options(one.values.get("options"))
    set_rows = [(name, told.pop(name, ""), *others) for name, *others in rows]
    head = ("OPTION", "SET TO", "TYPE", "DEFAULT", "MEANING")
    output.table(head, set_rows, empty="This handler has no options.")
    for name, value in told.items():
        output.line(f"There is no option {name!r}, which is set to {value}: remove it.", "red")


def _rows(model: type) -> list[tuple[str, str, str, str]]:
    return [
        (name, option["type"], option["default"], option["description"])
        for name, option in options_of(model).items()
    ]

"""Writes docs/configuration.md from the models of the configuration, so that the page cannot go stale.

Reads the models of agentd and of the built-in handlers: each field's name, type, limits, default,
description. `--check` writes nothing, and fails if the page is out of date; the unit tests run it.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from agentd.commands.option_text import fields_of, options_of, sections_of
from agentd.config.models import Config, HandlerEntry
from agentd.config.triggers import On
from agentd.handler import Handler

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_INTRODUCTION: Final = """\
# Configuration

<!-- Generated from the field descriptions by scripts/reference. Edit those, not this page. -->

One YAML file, `/etc/agentd/agentd.yaml` unless `--config` or `AGENTD_CONFIG` names another. Every section but
`handlers` may be left out. `config/agentd.yaml` is an annotated file to start from.

- `agentd check` reports all errors at once, each with file and line. An unknown field is an error.
- `systemctl reload agentd` (SIGHUP) reloads the file; a file with errors changes nothing. `state`, `tree`,
  `nginx` and `status` take effect only after a restart.
- A *duration* is written as `250ms`, `55s`, `1h30m` or `30d`; a plain number is seconds.
- A *size* is written as `512k`, `100M` or `2G`, in powers of 1,024; a plain number is bytes.
- `agentd handlers NAME` prints the options of any installed handler, yours included.
"""
_ENTRY: Final = "handlers.NAME"
_ON: Final = HandlerEntry.model_fields["on"].annotation


def reference() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## Top level\n", _table(Config)]
    for name, model in _sections(Config):
        parts += _section(f"## `{name}`\n", name, model)
    parts += _section(f"## `{_ENTRY}`\n", _ENTRY, HandlerEntry)
    parts += ["## `on`: what a handler is given\n", "Each item has exactly one of these forms.\n"]
    for model in _triggers():
        kind = next(iter(fields_of(model)))
        parts += [f"### `{{{kind}: ...}}`\n", _paragraph(model), _table(model)]
        parts += [text for name, nested in _sections(model) for text in (f"`{name}`:\n", _table(nested))]
    parts.append("## Options of the built-in handlers\n")
    for name, handler in _handlers():
        options = handler.Options
        parts += [f"### `use: {name}`\n", _paragraph(handler), _table(options)]
        for field, nested in _sections(options):
            parts += [f"#### `{field}` of `{name}`\n", _paragraph(nested), _table(nested)]
    return "\n".join(parts)


def _section(heading: str, path: str, model: type) -> list[str]:
    parts = [heading, _paragraph(model), _table(model)]
    for name, nested in _sections(model):
        parts += _section(f"### `{path}.{name}`\n", f"{path}.{name}", nested)
    return parts


def _paragraph(thing: type) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0] + "\n"


def _table(model: type) -> str:
    told = options_of(model)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, info in fields_of(model).items():
        one = told[name]
        default = one["default"]
        if default != "required":
            default = f"`{default}`" if default else '`""`'
        kind = "list of triggers" if info.annotation is _ON else one["type"].replace("map of Any", "map")
        limits = _limits(info, "s" if "duration" in kind else "")
        cells = (
            f"`{name}`",
            kind.replace("map of section", "map of sections") + limits,
            default,
            one["description"],
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _limits(info: FieldInfo, unit: str) -> str:
    """Such as ", 1 to 100"; empty without limits."""
    low, high = "", ""
    for one in _constraints(info):
        match one:
            case Ge():
                low = f"at least {one.ge}{unit}"
            case Gt():
                low = f"more than {one.gt}{unit}"
            case Le():
                high = f"at most {one.le}{unit}"
    return "".join(f", {limit}" for limit in (low, high) if limit)


def _constraints(info: FieldInfo) -> Iterator[object]:
    yield from info.metadata
    for part in (info.annotation, *typing.get_args(info.annotation)):
        for one in getattr(part, "__metadata__", ()):
            yield from one.metadata if isinstance(one, FieldInfo) else (one,)


def _sections(model: type) -> Iterator[tuple[str, type]]:
    """The fields that are sections of their own, `on` and the entries of `handlers` aside."""
    return sections_of(model, besides=(On, HandlerEntry))


def _triggers() -> Iterator[type]:
    for choice in typing.get_args(typing.get_args(On)[0]):
        yield typing.get_args(choice)[0]


def _handlers() -> Iterator[tuple[str, type[Handler]]]:
    """The handlers that ship with agentd, in alphabetical order."""
    for point in sorted(entry_points(group="agentd.handlers"), key=lambda one: one.name):
        if point.value.startswith("handlers."):
            yield point.name, point.load()


def main() -> int:
    """Write the page, or check it."""
    text = reference()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"docs/{PAGE.name} is out of date: run scripts/reference\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

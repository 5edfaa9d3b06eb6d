"""Reads the YAML file: every problem at once, each with file and line.

Loading imports the classes of the configured handlers (their options are checked too) and does no other I/O.
The models are in `sections.py` and `on.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from agentd.document import Document
from agentd.errors import ConfigError
from agentd.handler import Handler, HandlerOptions
from agentd.on import KINDS, OnEvent
from agentd.plugins import resolve
from agentd.sections import Config, HandlerEntry

__all__ = ["DEFAULT_PATH", "Config", "ConfiguredHandler", "HandlerEntry", "Loaded", "OnEvent", "load"]

DEFAULT_PATH: Final = Path("/etc/agentd/agentd.yaml")
Place: TypeAlias = tuple[str | int, ...]

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?")
_NAMES: Final = "a name has lower-case letters, digits, - _ . and at most 64 characters"
_MESSAGES: Final = {
    "extra_forbidden": "unknown field",
    "missing": "this field is required",
    "dict_type": "a map is needed here",
    "model_type": "a map is needed here",
    "tuple_type": "a list is needed here",
}


@dataclass(frozen=True, slots=True)
class ConfiguredHandler:
    """One entry of the handler map with its class found and its options checked."""

    name: str
    entry: HandlerEntry
    type: type[Handler]
    options: HandlerOptions

    def build(self) -> Handler:
        """A new handler object."""
        return self.type(self.options)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be run."""

    path: Path
    config: Config
    handlers: tuple[ConfiguredHandler, ...]


def load(path: Path) -> Loaded:
    """Read, check and resolve the configuration.

    Raises:
        ConfigError: with every problem found, one line each: file, line, place, what is wrong.
    """
    document = Document.read(path)
    if not isinstance(document.data, Mapping):
        raise ConfigError([f"{path}:1: the file must be a map with at least `handlers:`"])
    config, problems = _validate(document)
    handlers = tuple(_configure(document, problems))
    problems.extend(_notified(document, {handler.name for handler in handlers if handler.type.proves}))
    if config is not None:
        problems.extend(_placed(document, config))
    if problems or config is None:
        raise ConfigError(sorted(set(problems), key=_by_line))
    return Loaded(path, config, handlers)


def _by_line(problem: str) -> tuple[int, str]:
    found = re.search(r":(\d+): ", problem)
    return (int(found[1]) if found else 0, problem)


def _validate(document: Document) -> tuple[Config | None, list[str]]:
    try:
        return Config.model_validate(document.data), []
    except ValidationError as error:
        return None, list(_problems(document, (), error))


def _problems(document: Document, base: Place, error: ValidationError) -> Iterator[str]:
    """One line for each of pydantic's errors."""
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        message = _MESSAGES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        yield document.problem(base + _untagged(detail["loc"]), message)


def _untagged(place: Place) -> Place:
    """Without the tags of the union that pydantic puts behind the number of an item of `on:`."""
    return tuple(
        step
        for at, step in enumerate(place)
        if not (step in KINDS and place[at - 2 : at - 1] == ("on",) and isinstance(place[at - 1], int))
    )


def _configure(document: Document, problems: list[str]) -> Iterator[ConfiguredHandler]:
    """Each entry of the map that is right; what is wrong with the others goes to `problems`."""
    entries = document.data.get("handlers")
    for name, raw in entries.items() if isinstance(entries, Mapping) else ():
        place: Place = ("handlers", str(name))
        if not _NAME.fullmatch(str(name)):
            problems.append(document.problem(place, _NAMES))
        if isinstance(raw, Mapping) and isinstance(raw.get("use"), str):
            try:
                yield _handler(str(name), raw)
            except ConfigError as error:
                problems.extend(document.problem((*place, "use"), text) for text in error.problems)
            except ValidationError as error:
                if error.title != HandlerEntry.__name__:  # those of the entry itself are told by _validate
                    problems.extend(_problems(document, (*place, "options"), error))


def _handler(name: str, raw: Mapping[str, Any]) -> ConfiguredHandler:
    """Find the class and check its options; raises ConfigError or ValidationError."""
    found = resolve(raw["use"])
    options = found.Options.model_validate(raw.get("options") or {})
    return ConfiguredHandler(name, HandlerEntry.model_validate(raw), found, options)


def _notified(document: Document, provers: set[str]) -> Iterator[str]:
    """What is wrong with who notifies whom; no single field can know.

    Only a handler that proves may be told and tell others, so that a chain has two links and an end.
    """
    entries = document.data.get("handlers")
    told = {name: _names(raw) for name, raw in entries.items()} if isinstance(entries, Mapping) else {}
    for name, notify in told.items():
        for at, other in enumerate(notify):
            place: Place = ("handlers", str(name), "notify", at)
            if other not in told:
                yield document.problem(place, f"there is no handler named {other!r} in this file")
            elif told[other] and (other not in provers or name in provers):
                yield document.problem(place, f"{other!r} notifies others itself; notifications do not chain")


def _names(raw: object) -> list[str]:
    notify = raw.get("notify") if isinstance(raw, Mapping) else None
    return [name for name in notify if isinstance(name, str)] if isinstance(notify, list) else []


def _placed(document: Document, config: Config) -> Iterator[str]:
    """What is wrong with where the tree lies."""
    try:
        _ = config.prefix
    except ValueError:
        conf = config.nginx.conf if config.nginx else ""
        yield document.problem(("tree", "path"), f"the tree must lie below the directory of {conf}")

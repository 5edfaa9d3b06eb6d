"""Reads the YAML file: every problem at once, each with file and line.

Loading imports the classes of the configured handlers (their options are checked too) and does no other I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from agentd.config.models import Config, HandlerEntry, Sections
from agentd.config.plugins import resolve, search
from agentd.config.sections import Place, problems_of, read_document
from agentd.config.triggers import OnEvent
from agentd.config.yaml_document import Document
from agentd.errors import ConfigError
from agentd.handler import Handler, HandlerOptions
from agentd.values import parse_fleet_name

if TYPE_CHECKING:
    from agentd.trust.keys import FleetKey

__all__ = ["Config", "ConfiguredHandler", "HandlerEntry", "Loaded", "OnEvent", "load"]

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?")
_NAMES: Final = "a name has lower-case letters, digits, - _ . and at most 64 characters"


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
    """A configuration that can be run.

    Attributes:
        fleet_keys: those that `trust.fleet_keys` names, in their order; `with_fleet_keys` reads them.
    """

    path: Path
    config: Config
    handlers: tuple[ConfiguredHandler, ...]
    fleet_keys: tuple[FleetKey, ...] = field(default=(), repr=False)

    @property
    def joint(self) -> frozenset[str]:
        """The names of the handlers that are joint."""
        return frozenset(handler.name for handler in self.handlers if handler.type.joint)


def load(path: Path) -> Loaded:
    """Read, check and resolve the configuration.

    Raises:
        ConfigError: with every problem found, one line each: file, line, place, what is wrong.
    """
    document = read_document(path)
    config, problems = _validate(document)
    problems.extend(_search(document))
    handlers = tuple(_configure(document, problems))
    problems.extend(_notified(document, {handler.name for handler in handlers if handler.type.proves}))
    problems.extend(_kept(document, handlers))
    problems.extend(_joint(document, handlers))
    problems.extend(_trusted(document))
    if config is not None:
        problems.extend(_placed(document, config))
    if problems or config is None:
        raise ConfigError(sorted(set(problems), key=_by_line))
    return Loaded(path, config, handlers)


def load_sections(document: Document, names: Collection[str]) -> Sections:
    """Check the named sections alone, and that every section has a name that agentd knows.

    Raises:
        ConfigError: with every problem found in them.
    """
    ignored = set(Config.model_fields) - set(names)
    data = {name: value for name, value in document.data.items() if name not in ignored}
    try:
        return Sections.model_validate(data)
    except ValidationError as error:
        raise ConfigError(sorted(set(problems_of(document, (), error)), key=_by_line)) from error


def _by_line(problem: str) -> tuple[int, str]:
    found = re.search(r":(\d+): ", problem)
    return (int(found[1]) if found else 0, problem)


def _validate(document: Document) -> tuple[Config | None, list[str]]:
    try:
        return Config.model_validate(document.data), []
    except ValidationError as error:
        return None, list(problems_of(document, (), error))


def _search(document: Document) -> Iterator[str]:
    """Have handlers imported from the directories of `handlers_path:`; what is wrong with them."""
    try:
        paths = load_sections(document, ("handlers_path",)).handlers_path
    except ConfigError:  # reported by _validate
        paths = ()
    for at, problem in search(paths):
        yield document.problem(("handlers_path", at), problem)


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
                if error.title != HandlerEntry.__name__:  # _validate reports those of the entry itself
                    problems.extend(problems_of(document, (*place, "options"), error))


def _handler(name: str, raw: Mapping[str, Any]) -> ConfiguredHandler:
    """Find the class and check its options; raises ConfigError or ValidationError."""
    found = resolve(raw["use"])
    options = found.Options.model_validate(raw.get("options") or {})
    return ConfiguredHandler(name, HandlerEntry.model_validate(raw), found, options)


def _notified(document: Document, provers: set[str]) -> Iterator[str]:
    """What is wrong with who notifies whom; no single field can know.

    Only a handler that proves may both be notified and notify others, so that a chain has at most two links.
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


def _kept(document: Document, handlers: Iterable[ConfiguredHandler]) -> Iterator[str]:
    """What is wrong with `keep`: one name has one order on a node, in the log or by hearsay."""
    seals = _sealing(document)
    first: dict[str, tuple[str, str | None]] = {}
    for handler in handlers:
        for at, on in enumerate(handler.entry.on):
            if isinstance(on, OnEvent):
                place: Place = ("handlers", handler.name, "on", at)
                if problem := _why_not_kept(on, handler.type, document, seals):
                    yield document.problem((*place, "keep"), problem)
                known, keep = first.setdefault(on.event, (handler.name, on.keep))
                if keep != on.keep:
                    yield document.problem(
                        place,
                        f"{known!r} has `keep: {keep or 'null'}` for {on.event!r}: a node keeps a name in one"
                        " way only, so set the same here",
                    )


def _joint(document: Document, handlers: Collection[ConfiguredHandler]) -> Iterator[str]:
    """What a handler that is made from states alone cannot take."""
    joint = {one.name for one in handlers if one.type.joint and not one.type.proves}
    for handler in handlers:
        for at, other in enumerate(handler.entry.notify):
            if other in joint:
                yield document.problem(
                    ("handlers", handler.name, "notify", at),
                    f"{other!r} is made from states, and a notification changes none: leave it out",
                )
        if not handler.type.joint:
            continue
        if not handler.entry.on:
            yield document.problem(
                ("handlers", handler.name), "`on` is missing: say there which states it is made from"
            )
        for at, on in enumerate(handler.entry.on):
            if isinstance(on, OnEvent):
                yield document.problem(
                    ("handlers", handler.name, "on", at),
                    "it is made from states, and an event is none, since nobody can ask for it later:"
                    " write to a key instead, and name that",
                )


def _why_not_kept(
    on: OnEvent, handler: type[Handler], document: Document, seals: Callable[[str], bool]
) -> str:
    if not on.keep:
        return ""
    if not document.data.get("fleet"):
        return "events are kept in the log of a fleet: add `fleet:` with its `name:`, or remove `keep`"
    if on.event == "*":
        return 'events are kept by name: "*" cannot be kept'
    if handler.secret_payload and not (on.keep == "latest" and seals(on.event)):
        return (
            "its payload is secret: add the event to `trust.seal`, which encrypts it, and set `keep: latest`;"
            " or remove `keep`"
        )
    try:
        parse_fleet_name(on.event)
    except ValueError as error:
        return f"an event that is kept {error}; call it something else"
    return ""


def _sealing(document: Document) -> Callable[[str], bool]:
    """Whether a name is sealed; every one is if that cannot be told, which `_validate` reports."""
    try:
        trust = load_sections(document, ("trust",)).trust
    except ConfigError:
        return lambda _: True
    return trust.seals if trust else lambda _: False


def _trusted(document: Document) -> Iterator[str]:
    """What is wrong with `trust:`, beside the section itself."""
    if document.data.get("trust") and not document.data.get("fleet"):
        yield document.problem(
            ("trust",),
            "only messages of a fleet are signed: add `fleet:` with its `name:`, or remove `trust`",
        )

"""Finds the handler class that `use:` names, and imports that one only.

A name is an entry point of the group `agentd.handlers` (built-in handlers are ordinary entry points) or
`package.module:Class`, which is also looked for in the directories of `handlers_path:`. The errors tell
apart: no such name, no such module, a module whose own import fails.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
import sys
from collections.abc import Sequence
from importlib.machinery import all_suffixes
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from agentd.errors import ConfigError
from agentd.handler import Handler

GROUP: Final = "agentd.handlers"
_searched: Final[list[str]] = []  # what `search` added to sys.path
_CODE: Final = frozenset(suffix[suffix.rindex(".") :] for suffix in all_suffixes())
_REFERENCE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def available() -> dict[str, EntryPoint]:
    """The installed handlers by name, not imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def search(directories: Sequence[Path]) -> list[tuple[int, str]]:
    """Import handlers from these directories too, after all others; an earlier call is forgotten.

    A module that was imported already is not imported again.

    Returns:
        Position in `directories` and problem of each that cannot be used.
    """
    sys.path[:] = [place for place in sys.path if place not in _searched]
    _searched.clear()
    importlib.invalidate_caches()  # a file may have been added since
    problems = []
    for at, directory in enumerate(directories):
        if problem := _unusable(directory):
            problems.append((at, problem))
        elif str(directory) not in sys.path:
            sys.path.append(str(directory))
            _searched.append(str(directory))
    return problems


def _unusable(directory: Path) -> str:
    """Why code from there must not run as the user that we are; "" if it may."""
    try:
        if not directory.is_dir():
            return f"{directory} is not a directory"
        above = (*reversed(directory.resolve().parents), directory.resolve())
        links = reversed(directory.parents)  # whoever can replace a link there leads elsewhere
        if directory.lstat().st_uid not in (0, os.geteuid()):
            advice = f"chown -h root {directory}"
            return f"{directory} belongs to another user, who could run code as agentd: {advice}"
        for place in (*links, *above, *filter(_is_code, directory.rglob("*"))):
            found = place.stat()
            others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if others and not (found.st_mode & stat.S_ISVTX and place != above[-1]):
                return f"{place} is writable by others, who could run code as agentd: chmod go-w {place}"
            if found.st_uid not in (0, os.geteuid()):
                return f"{place} belongs to another user, who could run code as agentd: chown root {place}"
    except OSError as error:
        return f"{error.filename or directory} cannot be read: {error.strerror}"
    return ""


def _is_code(place: Path) -> bool:
    """Whether Python may import it, or look in it for what it imports."""
    return place.suffix in _CODE or place.is_dir()


def resolve(use: str) -> type[Handler]:
    """Import the handler class that `use` names.

    Raises:
        ConfigError: with one problem that says what is wrong with the name, the module or the class.
    """
    reference = use if _REFERENCE.fullmatch(use) else _reference_of(use)
    module_name, _, class_name = reference.partition(":")
    found = getattr(_module(module_name), class_name, None)
    if found is None:
        raise ConfigError([f"module {module_name!r} has no class {class_name!r}{_hidden(module_name)}"])
    if not (isinstance(found, type) and issubclass(found, Handler)):
        raise ConfigError([f"{reference} is not a subclass of agentd.handler.Handler"])
    _build_options(found, reference)
    return found


def _build_options(handler: type[Handler], reference: str) -> None:
    """Build the model now, which pydantic defers: a mistake in its definition is best reported here."""
    try:
        handler.Options.model_rebuild()
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ConfigError([f"the Options of {reference} are not a valid model: {why}"]) from error


def _module(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            there = "is its package installed, or its directory in handlers_path?"
            raise ConfigError([f"there is no module {module_name!r}; {there}"]) from error
        raise ConfigError([_broken(module_name, error)]) from error
    except (Exception, SystemExit) as error:
        raise ConfigError([_broken(module_name, error)]) from error


def _hidden(module_name: str) -> str:
    """Says so where a module below `handlers_path:` has the name of another that is found first."""
    top = module_name.partition(".")[0]
    found = str(getattr(sys.modules.get(top), "__file__", None) or "Python's own")
    for directory in _searched:
        for place in (Path(directory, f"{top}.py"), Path(directory, top)):
            if place.exists() and not Path(found).is_relative_to(directory):
                return f": {place} is hidden by {found}, which has the same name: rename it"
    return ""


def _reference_of(use: str) -> str:
    points = available()
    if use not in points:
        names = ", ".join(points) or "none are installed"
        raise ConfigError([f"there is no handler {use!r}; known: {names}; or give package.module:Class"])
    return f"{points[use].module}:{points[use].attr}"


def _broken(module: str, error: BaseException) -> str:
    return f"module {module!r} was found, but an import in it failed: {type(error).__name__}: {error}"

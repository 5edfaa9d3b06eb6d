"""Finds the handler class that `use:` names, and imports that one only.

A name is an entry point of the group `agentd.handlers` (built-in handlers are ordinary entry points) or
`package.module:Class`. The errors tell apart: no such name, no such module, a module whose own import fails.
"""

from __future__ import annotations

import importlib
import re
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Final

from agentd.errors import ConfigError
from agentd.handler import Handler

GROUP: Final = "agentd.handlers"
_REFERENCE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def available() -> dict[str, EntryPoint]:
    """The installed handlers by name, not imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def resolve(use: str) -> type[Handler]:
    """Import the handler class that `use` names.

    Raises:
        ConfigError: with one problem that says what is wrong with the name, the module or the class.
    """
    reference = use if _REFERENCE.fullmatch(use) else _reference_of(use)
    module_name, _, class_name = reference.partition(":")
    found = getattr(_module(module_name), class_name, None)
    if found is None:
        raise ConfigError([f"module {module_name!r} has no class {class_name!r}"])
    if not (isinstance(found, type) and issubclass(found, Handler)):
        raise ConfigError([f"{reference} is not a subclass of agentd.handler.Handler"])
    return found


def _module(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError([f"there is no module {module_name!r}; is its package installed?"]) from error
        raise ConfigError([_broken(module_name, error)]) from error
    except (Exception, SystemExit) as error:
        raise ConfigError([_broken(module_name, error)]) from error


def _reference_of(use: str) -> str:
    points = available()
    if use not in points:
        names = ", ".join(points) or "none are installed"
        raise ConfigError([f"there is no handler {use!r}; known: {names}; or give package.module:Class"])
    return f"{points[use].module}:{points[use].attr}"


def _broken(module: str, error: BaseException) -> str:
    return f"module {module!r} was found, but an import in it failed: {type(error).__name__}: {error}"

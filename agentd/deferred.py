"""Packages whose `__init__` imports far more than agentd uses: loaded without it until more is asked for.

Importing any module of a package runs the package's `__init__` first. A package that was deferred has not run
it: its modules can be imported, and the first other name that is missing runs it, in the same package object.
So a handler that imports the package as usual gets all of it, and there is only ever one class of each name.
What is deferred, and why:

    consul              imports requests, for a transport that agentd replaces: 4.5 MB
    prometheus_client   imports HTTP servers and clients, for endpoints that agentd has: 2 MB
    asyncio             is imported by structlog, for methods that agentd does not call: 1.4 MB

The memory counts on every node; together they are also half of the time that the daemon takes to start.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_lock = threading.RLock()


class _Package(ModuleType):
    """A package before its `__init__` ran."""

    _begun = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (any name of a module)
        # Tools that look through sys.modules probe for dunder names; those are not worth loading it for.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if not name.startswith("_") and find_spec(f"{self.__name__}.{name}"):
            return import_module(f"{self.__name__}.{name}")
        with _lock:  # another thread waits until all is there; this one may ask again from within `__init__`
            if not self._begun:
                self._run_init()
        return object.__getattribute__(self, name)

    def _run_init(self) -> None:
        spec = self.__spec__
        assert spec is not None and spec.loader is not None  # noqa: PT018, S101 (`defer` made it; tells mypy)
        self._begun = True
        try:
            spec.loader.exec_module(self)
        except BaseException:
            self._begun = False  # as after any failed import, the next one tries again
            raise
        self.__class__ = ModuleType  # type: ignore[assignment] # nothing is missing from here on


def defer(name: str) -> ModuleType:
    """The package of this name, deferred; if it is imported already, as it is.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if name not in sys.modules:
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        package = module_from_spec(spec)
        package.__class__ = _Package
        sys.modules[name] = package
    return sys.modules[name]

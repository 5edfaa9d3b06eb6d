"""Gives messages and acknowledgements a format that this release does not know, as the next one may.

Python imports it at the start of a process that has this directory in PYTHONPATH. The modules are compiled
from their source with another number, and never cached.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

_MODULES = ("agentd.fleet.envelope", "agentd.fleet.acknowledgement")
_FORMAT = re.compile(rb"^FORMAT: Final = \d+$", re.MULTILINE)
_NEXT = b"FORMAT: Final = 3"


class _Newer(SourceFileLoader):
    """Compiles a module with the next format."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source, count = _FORMAT.subn(_NEXT, self.get_data(path))
        if count != 1:
            raise ImportError(f"{path} has no FORMAT", name=fullname)
        return self.source_to_code(source, path)


class _Finder(MetaPathFinder):
    """Finds these modules before any other finder does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _MODULES else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Newer(fullname, spec.origin)
        return spec


sys.meta_path.insert(0, _Finder())

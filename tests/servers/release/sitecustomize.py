"""Gives messages and acknowledgements the formats of another release, as AGENTD_RELEASE says.

newer: formats that this release does not know, as the next one may have. older: those of the last release
that knew no signed messages. Python imports this at the start of a process that has this directory in
PYTHONPATH. The modules are compiled from their source with other numbers, and never cached.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

_FORMAT = rb"^FORMAT: Final = .+$"
_CHANGES = {
    "newer": {
        "agentd.fleet.envelope": (_FORMAT, b"FORMAT: Final = 3"),
        "agentd.fleet.acknowledgement": (_FORMAT, b"FORMAT: Final = 3"),
    },
    "older": {
        "agentd.fleet.envelope": (rb"^FORMATS: Final = .+$", b"FORMATS: Final = range(1, 2)"),
        "agentd.fleet.acknowledgement": (_FORMAT, b"FORMAT: Final = 1"),
    },
}[os.environ["AGENTD_RELEASE"]]


class _Changed(SourceFileLoader):
    """Compiles a module with another line in it."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        pattern, line = _CHANGES[fullname]
        source, count = re.subn(pattern, line, self.get_data(path), flags=re.MULTILINE)
        if count != 1:
            raise ImportError(f"{path} has no line {pattern!r}", name=fullname)
        return self.source_to_code(source, path)


class _Finder(MetaPathFinder):
    """Finds these modules before any other finder does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _CHANGES else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Changed(fullname, spec.origin)
        return spec


sys.meta_path.insert(0, _Finder())

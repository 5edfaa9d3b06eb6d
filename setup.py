"""The data files of the wheel: pyproject.toml can name files, but not what is below a directory.

Everything else about the project is in pyproject.toml.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from setuptools import setup

_DATA = ("config", "systemd")
_NOT_DATA = {"requirements", "__pycache__"}
"""The pins are for a checkout, whose pip reads them before there is a wheel."""


def data_files() -> list[tuple[str, list[str]]]:
    """(directory below the prefix, its files); setuptools wants each directory on its own."""
    found = defaultdict(list)
    for file in sorted(path for top in _DATA for path in Path(top).rglob("*")):
        if file.is_file() and not _NOT_DATA.intersection(file.parts):
            found[f"share/agentd/{file.parent}"].append(str(file))
    return list(found.items())


setup(data_files=data_files())

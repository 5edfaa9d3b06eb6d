"""`python -m agentd` in a directory that somebody else can write to."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

_HOSTILE = "import os\nos.write(2, b'imported from here')\n"


def _of_python_itself() -> set[str]:
    """What `python -m` imports before the module that it was asked for, whatever that is."""
    argv = [sys.executable, "-S", "-P", "-c", "import runpy, sys; print(*sys.modules)"]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    return {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["status"],
        ["check"],
        ["run"],
        ["nodes", "web"],
        ["import-watches", "w.json"],
    ],
    ids=lambda words: words[0],
)
def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, words: list[str]) -> None:
    """Whatever its modules are called: like the standard library's, a dependency's, or agentd's handlers."""
    names = {*sys.stdlib_module_names, *packages_distributions()} - {"agentd", *_of_python_itself()}
    for name in filter(str.isidentifier, names):
        (tmp_path / f"{name}.py").write_text(_HOSTILE)
    (tmp_path / "w.json").write_text('[{"type": "nodes", "args": ["true"]}]')

    done = subprocess.run(
        [sys.executable, "-m", "agentd", "--config", "none.yaml", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "imported from here" not in done.stderr
    assert "Traceback" not in done.stderr

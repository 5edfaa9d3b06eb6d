"""The programs that the build of the Debian package runs, and its error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout."""


class BuildError(Exception):
    """The package cannot be built; the text says what to do."""


def run(*command: str, **environment: str) -> None:
    """Run a program, quietly unless it fails; `environment` is added to what it inherits."""
    output(*command, **environment)


def output(*command: str, **environment: str) -> str:
    """What it prints."""
    env = os.environ | environment
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    except FileNotFoundError as error:
        raise BuildError(f"there is no {command[0]} here: install it, or build on a Debian") from error
    if done.returncode:
        raise BuildError(f"{_short(command)} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def _short(command: Sequence[str]) -> str:
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)[:100]


def copy(source: Path, target: Path) -> None:
    """Copy one file, and make its directory."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def link(path: Path, target: str) -> None:
    """Make a symbolic link, and its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def say(text: str) -> None:
    """Progress, for a person."""
    print(f"package: {text}", file=sys.stderr, flush=True)

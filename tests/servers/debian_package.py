"""The Debian package, built by scripts/package for the tests, and a newer one of the same code.

Owns .cache/package: each is built once for what it is made from. Without the Python packages that go into it,
which come from pip's index, the test is skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from agentd import __version__
from tests.servers.equipment import require

ROOT: Final = Path(__file__).parents[2]
NEWER: Final = f"{__version__}.1"
"""The version that the package is upgraded to."""
EPOCH: Final = 1_700_000_000
"""What their files are dated, instead of with the time of the commit."""
_CACHE: Final = ROOT / ".cache" / "package"
_INPUTS: Final = (
    "agentd",
    "handlers",
    "config",
    "systemd",
    "docs",
    "scripts",
    "*.md",
    "*.py",
    "*.toml",
    "LICENSE",
)
# Most of the time would go into the compression.
_FIXED: Final = {"SOURCE_DATE_EPOCH": str(EPOCH), "DPKG_DEB_COMPRESSOR_LEVEL": "0"}
_SECONDS: Final = 900


def package(version: str = __version__) -> Path:
    """The path of the package for this machine's architecture."""
    require("dpkg-deb")
    directory = _CACHE / _digest()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in _CACHE.iterdir():
            if old.is_dir() and old != directory:
                shutil.rmtree(old)
        found = list(directory.glob(f"agentd_{version}_*.deb"))
        return found[0] if found else _build(version, directory)


def _build(version: str, directory: Path) -> Path:
    # What a build must not depend on differs between the two.
    odd = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"} if version == NEWER else {}
    done = subprocess.run(
        [sys.executable, "scripts/package.py", f"--version={version}", f"--out={directory}"],
        cwd=ROOT, env=os.environ | odd | _FIXED, umask=0o077 if odd else 0o002,
        capture_output=True, text=True, check=False, timeout=_SECONDS,
    )  # fmt: skip
    if "Failed to establish a new connection" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def _digest() -> str:
    """Of all that it is made from."""
    found = hashlib.sha256()
    for path in _inputs():
        found.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _inputs() -> Iterator[Path]:
    for pattern in _INPUTS:
        for top in sorted(ROOT.glob(pattern)):
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file() and "__pycache__" not in path.parts:
                    yield path

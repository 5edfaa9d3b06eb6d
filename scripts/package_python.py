"""The Python environment in the Debian package: agentd, its dependencies, and what makes it an environment.

Owns .cache/wheels, where what each set of pins needs is kept once it has been fetched; pip compares the
digests with the pins each time.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from package_programs import ROOT, copy, link, run, say

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's name of each architecture, and Python's."""
REQUIREMENTS: Final = ("agentd", "template", "trust", "zstd")
"""agentd's own and the extras that are in the package; botocore and google-auth would double its size."""
_PYTHON: Final = "3.11"
_GLIBC: Final = ("2014", "_2_17", "_2_28", "_2_34")  # Debian 12 has 2.36
_LIBRARY: Final = Path("usr/lib/agentd")
PACKAGES: Final = _LIBRARY / f"lib/python{_PYTHON}/site-packages"


def install_python(source: Path, tree: Path, arch: str) -> None:
    """Install the environment.

    Args:
        source: a copy of the repository, which this writes to.
        tree: the package's /.
        arch: the architecture, as Debian calls it.
    """
    target, pins = tree / PACKAGES, source / "requirements.txt"
    files = (source / f"config/requirements/{name}.txt" for name in REQUIREMENTS)
    pins.write_text("".join(map(without_build_tools, files)))
    install = [
        "install",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(target),
        *_platform(arch),
    ]
    _pip(*install, "--require-hashes", "--find-links", str(_wheels(pins, arch)), "-r", str(pins))
    say("  agentd itself")
    own = source / "wheel"
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(own), str(source))
    _pip(*install, *map(str, own.glob("*.whl")))
    for name in ("bin", "share"):  # programs of dependencies; our data, which goes to /usr/share
        shutil.rmtree(target / name, ignore_errors=True)
    for stray in target.glob("*.txt"):  # a dependency's own
        stray.unlink()
    copy(ROOT / "scripts/debian/agentd_site.py", target / "agentd_site.py")
    (target / "agentd-site.pth").write_text("import agentd_site\n")
    home = "home = /usr/bin\ninclude-system-site-packages = false\n"
    (tree / _LIBRARY / "pyvenv.cfg").write_text(home)
    link(tree / _LIBRARY / "bin/python3", "../../../bin/python3")
    link(tree / _LIBRARY / "bin/agentd", "../../../bin/agentd")
    link(tree / _LIBRARY / "share/agentd", "../../../share/agentd")
    copy(ROOT / "scripts/debian/agentd", tree / "usr/bin/agentd")


def _wheels(pins: Path, arch: str) -> Path:
    """The directory with what is pinned."""
    name = f"{arch}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    kept = ROOT / ".cache" / "wheels" / name
    if not kept.is_dir():
        say(f"  fetching the packages of {', '.join(REQUIREMENTS)}")
        fresh = pins.parent / "wheels"
        _pip("download", "--no-deps", "--require-hashes", *_platform(arch), "-d", str(fresh), "-r", str(pins))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(fresh, kept)
    return kept


def without_build_tools(requirements: Path) -> str:
    """A file of pins without setuptools, which is in it to build agentd."""
    return re.sub(r"(?m)^setuptools==.*\n(?: .*\n)*", "", requirements.read_text())


def _platform(arch: str) -> list[str]:
    tags = [f"manylinux{version}_{MACHINES[arch]}" for version in _GLIBC]
    abis = [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    python = [f"--python-version={_PYTHON}", "--implementation=cp", *abis]
    return ["--only-binary=:all:", *python, *(f"--platform={tag}" for tag in tags)]


def _pip(command: str, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, command, *arguments)

"""The root of a Debian machine for `tests.servers.nspawn`, made once and kept under .cache/.

Owns .cache/nspawn. The packages come from the archive that this machine's own apt uses. Whatever is missing
for that skips the test, in CI as well.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.servers.equipment import require_root

SOURCE: Final = Path(__file__).parents[2]
"""The checkout."""
_CACHE: Final = SOURCE / ".cache" / "nspawn"
_PACKAGES: Final = (
    "systemd", "systemd-sysv", "dbus", "nginx-light", "python3", "ipset", "nftables", "iptables", "iproute2",
    "procps", "apt", "curl", "openssl",
)  # fmt: skip
_SPARED: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale")
_SECONDS: Final = 1800
_MEMORY: Final = Path("/dev/shm")  # dpkg syncs each file, which takes a disk minutes
_ROOM: Final = 1 << 30


def machine_root() -> Path:
    """The directory, which nobody may write to; made if there is none, which takes a minute or two."""
    require_root("boot a machine")
    for program in ("systemd-nspawn", "mmdebstrap", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} to boot a machine with")
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        pytest.skip(f"the machine is a Debian, as this one is not: {release.get('ID')}")
    if sys.version_info[:2] != _system_python():
        pytest.skip("the machine's Python is another one than that of the virtual environment")
    suite = release["VERSION_CODENAME"]
    name = hashlib.sha256(" ".join((suite, *_PACKAGES, *_SPARED)).encode()).hexdigest()[:12]
    root = _CACHE / f"{suite}-{name}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make(root, suite)
    return root


def _system_python() -> tuple[int, int]:
    target = Path("/usr/bin/python3").resolve().name.removeprefix("python").split(".")
    return int(target[0]), int(target[1])


def _make(root: Path, suite: str) -> None:
    with _workshop() as directory:
        target = directory / "root"
        argv = [
            "mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(_PACKAGES)}",
            *(f"--dpkgopt=path-exclude=/{spared}/*" for spared in _SPARED),
            suite, str(target), _archive(),
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode:
            pytest.skip(f"mmdebstrap cannot make a machine: {(done.stdout + done.stderr).strip()[-300:]}")
        made = root.with_suffix(".new")
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run(["cp", "-a", str(target), str(made)], check=True, timeout=_SECONDS)
        made.rename(root)


def _archive() -> str:
    """The Debian archive among this machine's apt sources."""
    columns = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)"
    argv = ["apt-get", "indextargets", "--format", columns, "Created-By: Packages"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
    for line in listed.splitlines():
        origin, label, component, release, address = line.split("|")
        if (origin, label, component) == ("Debian", "Debian", "main") and "-" not in release:
            return address
    pytest.skip("apt knows no archive of Debian; run `apt-get update`")


@contextmanager
def _workshop() -> Iterator[Path]:
    """A directory in memory, where there is room for it."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM else _CACHE
    with tempfile.TemporaryDirectory(prefix="agentd-nspawn-", dir=memory, ignore_cleanup_errors=True) as made:
        yield Path(made)

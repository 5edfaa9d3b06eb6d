"""What this machine can do for the tests.

Owns the guards: each asks the thing itself, once per process, since a program that is there may not start, a
module may belong to another nginx, and a kernel may refuse. What does not work skips the test on a person's
machine and fails it where CI=true.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.servers.nginx import loading

IS_ROOT: Final = os.geteuid() == 0
NAMESPACE: Final = ("unshare", "--net", *([] if IS_ROOT else ["--map-root-user"]))
"""Begins a command that runs as root of a separate network."""

_SECONDS = 120
_QUESTIONS: Final = {
    "bash": ("bash", "--version"),
    "bzip2": ("bzip2", "--help"),
    "chromium": ("chromium", "--version"),
    "consul": ("consul", "version"),
    "curl": ("curl", "--version"),
    "dig": ("dig", "-v"),
    "dpkg-deb": ("dpkg-deb", "--version"),
    "fish": ("fish", "--version"),
    "gzip": ("gzip", "--version"),
    "haproxy": ("haproxy", "-v"),
    "iptables": (*NAMESPACE, "iptables", "-S"),
    "ipset": (*NAMESPACE, "ipset", "create", "probe", "hash:net"),
    "lintian": ("lintian", "--version"),
    "man": ("man", "--version"),
    "mandoc": ("sh", "-c", "mandoc -T lint -W error /dev/null"),
    "mount": ("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"),
    "nft": (*NAMESPACE, "nft", "add table inet probe { set probe { type ipv4_addr; flags interval; }; }"),
    "openssl": ("openssl", "version"),
    "rsync": ("rsync", "--version"),
    "setpriv": ("setpriv", "--version"),
    "systemd-analyze": ("systemd-analyze", "--version"),
    "systemd-tmpfiles": (*NAMESPACE, "systemd-tmpfiles", "--version"),
    "xz": ("xz", "--version"),
    "zsh": ("zsh", "--version"),
    "zstd": ("zstd", "--version"),
}


def require(thing: str) -> None:
    """Skip (in CI: fail) the test if a program, `nginx-lua` or `nginx-stream` does not work here."""
    if fault := _fault(thing):
        missing(f"{thing} does not work here: {fault}")


def require_root(why: str) -> None:
    """Skip the test unless root runs it, in CI as well: who runs the tests is a person's choice."""
    if not IS_ROOT:
        pytest.skip(f"only root can {why}")


def missing(what: str) -> NoReturn:
    """Skip the test for want of something that CI is bound to have; in CI: fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@cache
def _fault(thing: str) -> str:
    """Why it does not work; empty if it does."""
    if thing in _QUESTIONS:
        return _complaint(*_QUESTIONS[thing])
    with tempfile.TemporaryDirectory(prefix="agentd-") as made:
        conf = Path(made, "nginx.conf")
        needed = loading(thing.removeprefix("nginx-"))
        conf.write_text(f"{needed}pid {made}/pid; error_log {made}/log; events {{}} http {{}}")
        return _complaint("nginx", "-t", "-q", "-e", f"{made}/log", "-c", str(conf))


def _complaint(*argv: str) -> str:
    """The last words of a program that fails; empty if it succeeds."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1][:300]

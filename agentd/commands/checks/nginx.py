"""nginx: its configuration holds, it includes the tree in `http {}`, and old workers end in time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from agentd.apply.canary import NAME
from agentd.apply.check import NginxCheck
from agentd.apply.process import run
from agentd.commands.checks.finding import Finding
from agentd.config import Loaded
from agentd.errors import ConfigError, HandlerError, TreeError
from agentd.options import NginxOptions

_DUMP: Final = 128 * 1024 * 1024  # bytes; a blacklist of a million lines is part of it
_SHUTDOWN: Final = re.compile(rb"^\s*worker_shutdown_timeout\s+([^;\s]+)\s*;", re.MULTILINE)
_QUOTED: Final = 200  # characters of an output without an error line
_ERROR: Final = re.compile(r"\[(?:emerg|alert|crit|error)\] (?:\d+#\d+: )?(.+)")


def findings(loaded: Loaded, nginx: NginxOptions) -> Iterator[Finding]:
    """The configuration first; while that is broken nothing else can be told."""
    fresh = not nginx.pid.exists()
    try:
        dump = run(
            [nginx.binary, "-T", "-c", str(nginx.conf)], timeout=nginx.timeout, check=False, keep=_DUMP
        )
    except HandlerError as error:
        yield Finding("FAIL", "nginx", str(error), "install nginx, or correct nginx.binary")
        return
    finally:
        _remove_empty_pid(nginx, fresh=fresh)
    if dump.returncode:
        yield _broken(dump.output.decode(errors="replace"), loaded, nginx)
        return
    yield Finding("ok", "nginx -t", f"{nginx.conf} holds")
    yield _included(loaded, nginx)
    yield _shutdown(dump.output)


def _broken(output: str, loaded: Loaded, nginx: NginxOptions) -> Finding:
    """Before the daemon's first start the include has nothing to include; that is as it should be."""
    found = _ERROR.search(output)
    said = found[1] if found else output.strip()[-_QUOTED:]
    if f"/current/{NAME}" in said and not (loaded.config.tree.path / "current").exists():
        text = "nginx includes the tree, which the daemon makes when it first starts"
        return Finding("warn", "nginx include", text, "start agentd, and then nginx")
    return Finding("FAIL", "nginx -t", said, f"mend {nginx.conf}")


def _remove_empty_pid(nginx: NginxOptions, *, fresh: bool) -> None:
    """`nginx -t` leaves an empty one if there was none."""
    if fresh and nginx.pid.exists() and not nginx.pid.stat().st_size:
        nginx.pid.unlink()


def _included(loaded: Loaded, nginx: NginxOptions) -> Finding:
    line = f"include {loaded.config.prefix}/current/{NAME};"
    try:
        # Where there is no tree there is no generation, and an include of one would have been an error.
        included = loaded.config.tree.path.exists() and NginxCheck(nginx, loaded.config.tree.path).included()
    except (HandlerError, TreeError, ConfigError) as error:
        return Finding("warn", "nginx include", f"cannot be told: {error}", f"put `{line}` into http {{}}")
    if included:
        return Finding("ok", "nginx include", f"{line} stands in http {{}}")
    return Finding(
        "FAIL", "nginx include", "nginx does not include the tree in http {}", f"put `{line}` into http {{}}"
    )


def _shutdown(dump: bytes) -> Finding:
    found = _SHUTDOWN.search(dump)
    if found:
        return Finding("ok", "nginx drain", f"worker_shutdown_timeout {found[1].decode(errors='replace')}")
    return Finding(
        "warn",
        "nginx drain",
        "worker_shutdown_timeout is not set: old workers may drain for ever, and reloads wait for them",
        "put `worker_shutdown_timeout 60s;` at the top of nginx.conf",
    )

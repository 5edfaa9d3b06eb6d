"""`agentd run`: the daemon."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.deferred import defer

if TYPE_CHECKING:
    from agentd.config.load import Loaded


def add_arguments(parser: Parser) -> None:
    """Only `--config` and `--json`, which every command has."""
    parser.add_example("sudo agentd run", "sudo agentd run --config ./agentd.yaml --json")


def execute(arguments: Namespace, output: Output) -> int:
    """Run until SIGTERM. With --json the log is JSON on a terminal too, until SIGHUP reads the file again."""
    _import_structlog()
    from agentd.agent import run  # noqa: PLC0415 (structlog must be there already)
    from agentd.config.fleet_keys import with_fleet_keys  # noqa: PLC0415 (as above)
    from agentd.config.load import load  # noqa: PLC0415 (as above)

    loaded = with_fleet_keys(load(arguments.config))
    for directory in (loaded.config.state, loaded.config.tree.path):
        _check_writable(directory)
    return run(_with_json_log(loaded) if output.json else loaded)


def _check_writable(directory: Path) -> None:
    """Say at once that this user is the wrong one; a disk that is full or read-only is waited for.

    Raises:
        PermissionError: this user may not write there.
    """
    if os.geteuid() == 0:
        return
    there = next(one for one in (directory, *directory.parents) if os.path.lexists(one))
    if not os.access(there, os.W_OK | os.X_OK) and not os.statvfs(there).f_flag & os.ST_RDONLY:
        raise PermissionError(errno.EACCES, "this user may not write there", str(directory))


def _import_structlog() -> None:
    """Import it as if rich were not installed, and without asyncio.

    It takes rich along wherever it is, for tracebacks that agentd prints plainly: 6 MB and 40 ms for nothing.
    """
    defer("asyncio")
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment] # how Python spells "not to be imported"
        importlib.import_module("structlog")
        del sys.modules["rich"]


def _with_json_log(loaded: Loaded) -> Loaded:
    log = loaded.config.log.model_copy(update={"format": "json"})
    return replace(loaded, config=loaded.config.model_copy(update={"log": log}))

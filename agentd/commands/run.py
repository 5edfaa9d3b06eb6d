"""`agentd run`: the daemon."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from agentd.agent import run
from agentd.commands.output import Output
from agentd.config import Loaded, load


def execute(arguments: Namespace, output: Output) -> int:
    """Run until SIGTERM. With --json the log is JSON on a terminal too, until SIGHUP reads the file again."""
    loaded = load(arguments.config)
    return run(_with_json_log(loaded) if output.json else loaded)


def _with_json_log(loaded: Loaded) -> Loaded:
    log = loaded.config.log.model_copy(update={"format": "json"})
    return replace(loaded, config=loaded.config.model_copy(update={"log": log}))

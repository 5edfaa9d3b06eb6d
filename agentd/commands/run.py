"""`agentd run`: the daemon."""

from __future__ import annotations

from argparse import Namespace

from agentd.agent import run
from agentd.commands.output import Output
from agentd.config import load


def execute(arguments: Namespace, _output: Output) -> int:
    """Run until SIGTERM."""
    return run(load(arguments.config))

"""`agentd check`: whether agentd can do its work here: one line a subject, and what to do where it cannot.

Looks only. 0: nothing is in the way (warnings may stand); 1: something is; 2: the configuration is wrong.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from agentd.commands.checks import consul, disk, nginx
from agentd.commands.checks.finding import Finding, Level
from agentd.commands.output import Colour, Output
from agentd.config import Loaded, load
from agentd.errors import ConfigError

_COLOURS: Final[dict[Level, Colour]] = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def execute(arguments: Namespace, output: Output) -> int:
    """Print all findings."""
    try:
        loaded = load(arguments.config)
    except ConfigError as error:
        found = [Finding("FAIL", "configuration", problem, "correct that line") for problem in error.problems]
        _print(found, output)
        return 2
    found = list(_findings(loaded))
    _print(found, output)
    return int(any(one.level == "FAIL" for one in found))


def _findings(loaded: Loaded) -> Iterator[Finding]:
    names = ", ".join(handler.name for handler in loaded.handlers)
    yield Finding("ok", "configuration", f"{loaded.path}: {names}")
    yield from consul.findings(loaded)
    yield from disk.findings(loaded)
    if loaded.config.nginx is not None:
        yield from nginx.findings(loaded, loaded.config.nginx)


def _print(found: list[Finding], output: Output) -> None:
    if output.json:
        output.document([asdict(one) for one in found])
        return
    width = max(len(one.subject) for one in found)
    for one in found:
        output.line(f"{one.level:4}  {one.subject:{width}}  {one.text}", _COLOURS[one.level])
        if one.advice:
            output.line(f"{'':4}  {'':{width}}  -> {one.advice}")

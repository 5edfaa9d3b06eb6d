"""`agentd check`: whether agentd can work here, one line per subject, and what to do about problems.

Changes nothing. 0: no problem, though perhaps warnings, unless `--strict`; 1: a problem; 2: the configuration
is wrong.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from agentd.commands.checks import consul, daemon, disk, fleet, handlers, held, nginx, nginx_processes, trust
from agentd.commands.checks.finding import Finding, Level
from agentd.commands.output import Colour, Output
from agentd.commands.parser import Parser
from agentd.config.load import Loaded, load
from agentd.errors import ConfigError

_COLOURS: Final[dict[Level, Colour]] = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def add_arguments(parser: Parser) -> None:
    """Whether a warning is enough to fail."""
    parser.add_example("sudo agentd check", "sudo agentd check --strict")
    parser.add_exit_status("0 if nothing fails; 1 if something does, with --strict also for a warning.")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 for a warning, too")


def execute(arguments: Namespace, output: Output) -> int:
    """Print all findings."""
    try:
        loaded = load(arguments.config)
    except ConfigError as error:
        advice = "correct that line"
        if isinstance(error.__cause__, FileNotFoundError):
            advice = "run `agentd init`"
        elif isinstance(error.__cause__, PermissionError):
            advice = "run it as root (sudo agentd check)"
        found = [Finding("FAIL", "configuration", problem, advice) for problem in error.problems]
        _print(found, output)
        return 2
    found = list(_findings(loaded))
    _print(found, output)
    return int(any(one.level == "FAIL" or (arguments.strict and one.level == "warn") for one in found))


def _findings(loaded: Loaded) -> Iterator[Finding]:
    names = ", ".join(handler.name for handler in loaded.handlers)
    yield Finding("ok", "configuration", f"{loaded.path}: {names}")
    yield from consul.findings(loaded)
    yield from fleet.findings(loaded)
    yield from trust.findings(loaded)
    yield from disk.findings(loaded)
    if loaded.config.nginx is not None:
        yield from nginx.findings(loaded, loaded.config.nginx)
        yield from nginx_processes.findings(loaded, loaded.config.nginx)
    yield from handlers.findings(loaded)
    yield from held.findings(loaded)
    yield from daemon.findings(loaded)


def _print(found: list[Finding], output: Output) -> None:
    if output.json:
        output.document([asdict(one) for one in found])
        return
    width = max(len(one.subject) for one in found)
    for one in found:
        output.line(f"{one.level:4}  {one.subject:{width}}  {one.text}", _COLOURS[one.level])
        if one.advice:
            output.line(f"{'':4}  {'':{width}}  -> {one.advice}")

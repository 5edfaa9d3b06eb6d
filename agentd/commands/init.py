"""`agentd init`: writes what is missing on this machine: configuration, units and what nginx includes.

It shows first what it would write, and never replaces a file: one that differs may be somebody's work. Which
files there are, and where they go, is in `installation`.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from agentd.commands.file_difference import print_difference
from agentd.commands.installation import Installation, Item, next_steps, program, untrusted_owner
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.errors import AgentdError


def add_arguments(parser: Parser) -> None:
    """How far to go, and where."""
    parser.add_example("agentd init --dry-run", "sudo agentd init")
    parser.add_exit_status("0 if nothing is missing any more; 1 if something is.")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be written")
    parser.add_argument("--yes", action="store_true", help="do not ask (needed without a terminal)")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="root of the machine, such as that of an image",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Show what is missing, and write it; 1 if something is still missing."""
    if not arguments.dry_run:
        _check_rights(arguments.root)
    installation = Installation(arguments.root, arguments.config, program())
    items = installation.items()
    _show(items, installation, output)
    missing = [item for item in items if item.state == "missing"]
    write = bool(missing) and not arguments.dry_run and (arguments.yes or _agreed(len(missing), output))
    if write:
        _write(missing, installation)
    if missing and not write:
        advice = "this was a dry run" if arguments.dry_run else "add --yes to write what is missing"
        output.line()
        output.line(f"Nothing has been written yet: {advice}.", "bold")
    _finish(installation, items, output, written=write)
    return int(bool(missing) and not write and not arguments.dry_run)


def _check_rights(root: Path) -> None:
    """Say at once what is lacking, before anything is shown or asked."""
    if root == Path("/") and os.geteuid() != 0:
        raise AgentdError(
            "init writes to /etc: run it as root (sudo agentd init), or look first with --dry-run"
        )
    if not root.is_dir():
        raise AgentdError(f"{root} is no directory: make the root of the machine first")


def _show(items: Sequence[Item], installation: Installation, output: Output) -> None:
    """The differences, and at the end, where the eye is, what is where and what to do about it."""
    for item in items:
        if item.state in ("missing", "differs") and not output.json:
            print_difference(item.difference(), output)
            output.line()
    if not output.json:
        output.table(("FILE", "STATE"), [(item.there, item.state) for item in items])
    for item in items:
        if item.advice:
            output.line(f"{item.there} {item.state}, and is left as it is. {item.advice}", "yellow")
    for reason in installation.left_out:
        output.line(f"left out: {reason}", "yellow")
    owner = untrusted_owner(installation.started, installation.root)
    if owner:
        output.line(f"warning: {owner}", "yellow")


def _agreed(count: int, output: Output) -> bool:
    """Ask, if there is a person to answer."""
    if output.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    sys.stdout.write(f"\nWrite what is missing ({'1 file' if count == 1 else f'{count} files'})? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(missing: Sequence[Item], installation: Installation) -> None:
    """Each whole or not at all. Raises TreeError, which names those that were written before it failed."""
    done: list[str] = []
    for item in missing:
        try:
            installation.write(item)
        except AgentdError as error:
            so_far = f"written before: {', '.join(done)}" if done else "nothing was written"
            raise AgentdError(f"{error}; {so_far}") from error
        done.append(str(item.target))


def _finish(installation: Installation, items: Sequence[Item], output: Output, *, written: bool) -> None:
    """Say what was done, and what is left to do."""
    missing = [item for item in items if item.state == "missing"]
    steps = next_steps(installation, written=written) if written or not missing else []
    if output.json:
        output.document(
            {
                "files": [item.document() for item in items],
                "left_out": installation.left_out,
                "written": [str(item.target) for item in missing] if written else [],
                "next": steps,
            }
        )
    if missing and not written:
        return
    output.line()
    output.line("Written." if written else "Nothing is missing, and nothing has been written.", "bold")
    if steps:
        output.line("What is left to do, unless it is done:" if not written else "What is left to do:")
    for step in steps:
        output.line(f"  {step}")

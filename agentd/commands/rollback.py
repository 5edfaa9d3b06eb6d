"""`agentd rollback`: makes an earlier generation current, and requests nginx's reload through the journal.

nginx checks the generation first. The flip is this command's; the reload and its proof are the daemon's. The
handlers whose files it changes are paused before, so that what they hear next does not undo it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentd.commands import argument_types
from agentd.commands.node import Node, open_node
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.pause import wait_until_kept
from agentd.commands.places import read_places
from agentd.commands.wait_for_outcome import Queued, print_outcomes, wait_for_outcome
from agentd.errors import AgentdError, JournalError
from agentd.journal.history import Wanted, history
from agentd.journal.pauses import Pauses
from agentd.supervisor import provers

_PATIENCE: Final = 3.0  # seconds that a change in progress may take


def add_arguments(parser: Parser) -> None:
    """Which generation."""
    parser.add_example("sudo agentd rollback", "sudo agentd rollback 41")
    parser.add_exit_status(
        "0 if nginx is proved to serve that generation; 1 if it is not, or not within --wait."
    )
    parser.add_argument(
        "generation",
        nargs="?",
        type=argument_types.count,
        metavar="N",
        help="generation to go back to (default: the one before the current one)",
    )
    argument_types.add_wait(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Flip, then wait for the proof; 1 if nginx is not proved to run that generation."""
    with open_node(arguments.config) as node:
        before = node.tree.current
        to = _target(node, arguments.generation)
        told = provers(node.loaded.handlers)
        with _paused(node, arguments.config, to) as paused:
            node.committer.roll_back(to, f"rolled back by hand from generation {before}", told, check=True)
        output.line(f"Generation {to} is current again, instead of {before}.")
        if paused:
            resume = f"agentd resume {' '.join(paused)}"
            output.line(f"Paused, so that nothing undoes that: {', '.join(paused)}. To go on: `{resume}`.")
        rows = wait_for_outcome(node, [_queued(node, name, to) for name in told], arguments.wait)
        if output.json:
            output.document({"generation": to, "before": before, "paused": paused, "reloads": rows})
        well = print_outcomes(rows, output)
        if not well:
            output.line(_advice(node.running))
    return 0 if well else 1


@contextmanager
def _paused(node: Node, config: Path, to: int) -> Iterator[list[str]]:
    """Pause the handlers whose files the rollback changes, and that take changes; undone if it fails."""
    takers = {one.name for one in node.loaded.handlers if one.entry.on}
    pauses = Pauses(node.loaded.config.state)
    names = sorted(name for name in node.tree.touched(to) & takers if pauses.of(name) is None)
    try:
        if names:
            pauses.pause(names, f"rolled back to generation {to}", None)
    except JournalError as error:  # the rollback is more urgent
        sys.stderr.write(f"agentd: warning: not paused, so the next change may undo it: {error}\n")
        names = []
    try:
        if names:  # a change that is being applied may be what is to be undone
            wait_until_kept(read_places(config), names, _PATIENCE, paused=True)
        yield names
    except BaseException:
        if names:
            pauses.resume(names)
        raise


def _advice(running: bool) -> str:  # noqa: FBT001 (a value, not a switch)
    if running:
        return "nginx has not been proved to run it yet; see `agentd history` and nginx's error log."
    return (
        "nginx has not been reloaded because the daemon is not running: start it, or run `nginx -s reload`."
    )


def _target(node: Node, asked: int | None) -> int:
    current = node.tree.current
    if not current:
        raise AgentdError("there is no generation yet; start the daemon first")
    target = asked or node.tree.manifest(current).parent
    if not target:
        raise AgentdError(
            f"generation {current} is the first, there is none before it: pick one from `agentd generations`"
        )
    if target == current:
        raise AgentdError(f"generation {current} is already current: pick another from `agentd generations`")
    return target


def _queued(node: Node, handler: str, to: int) -> Queued:
    """The notification that the rollback left for a handler: the newest one of that generation."""
    rows = history(node.journal, Wanted(handler, f"rollback-{to}"), limit=1000)
    return handler, next(row["id"] for row in rows if row["id"].partition("#")[0] == f"rollback-{to}")

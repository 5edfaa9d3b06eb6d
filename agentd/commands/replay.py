"""`agentd replay`: hands a change to its handlers again, or shows what that would change."""

from __future__ import annotations

from argparse import Namespace

from agentd.commands import argument_types, dry_run
from agentd.commands.node import open_node
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.wait_for_outcome import report_outcomes
from agentd.handler_names import require_handler
from agentd.journal.history import replay


def add_arguments(parser: Parser) -> None:
    """Which change, and whether for real."""
    parser.add_example("sudo agentd replay 3f2a --dry-run", "sudo agentd replay 3f2a")
    parser.add_exit_status(
        "0 if every handler took it, or in a dry run would take it; 1 if one did not, or not within --wait."
    )
    parser.add_argument(
        "id", type=argument_types.word, metavar="ID", help="ID of the change, or its first characters"
    )
    parser.add_argument("--handler", type=argument_types.word, metavar="HANDLER", help="only to this handler")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="run the handler here, show what would change, and discard the result",
    )
    argument_types.add_wait(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Queue the change again and wait for the outcome, or do a dry run; 1 if it did not end well."""
    with open_node(arguments.config) as node:
        if arguments.handler is not None:
            here = {*(one.name for one in node.loaded.handlers), *node.journal.handlers()}
            require_handler(arguments.handler, here, "the configuration and the journal have")
        if arguments.dry_run:
            return dry_run.execute(node, arguments.id, arguments.handler, output)
        entries = replay(node.journal, arguments.id, arguments.handler)
        return int(not report_outcomes(node, entries, arguments.wait, output))

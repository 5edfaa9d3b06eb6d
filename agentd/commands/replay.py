"""`agentd replay`: hands a change to its handlers once more, or shows what would come of it."""

from __future__ import annotations

from argparse import Namespace

from agentd.commands import dry_run
from agentd.commands.follow import follow, tell
from agentd.commands.node import Node, open_node
from agentd.commands.output import Output


def execute(arguments: Namespace, output: Output) -> int:
    """Owe the change again and wait for the outcome, or run the handlers dry; 1 if it did not end well."""
    with open_node(arguments.config) as node:
        if arguments.dry_run:
            return dry_run.execute(node, arguments.id, arguments.handler, output)
        return _replay(node, arguments, output)


def _replay(node: Node, arguments: Namespace, output: Output) -> int:
    entries = node.journal.replay(arguments.id, arguments.handler)
    rows = follow(node, [(entry.handler, entry.id) for entry in entries], arguments.wait)
    if output.json:
        output.document(rows)
    well = tell(rows, output)
    if not node.running:
        output.line("The daemon does not run: the change waits in the journal until it does.")
    return 0 if well else 1

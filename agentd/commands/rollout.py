"""`agentd rollout`: shows the open rollouts, or aborts one; `agentd publish --canary` begins them."""

from __future__ import annotations

from argparse import Namespace

from agentd.commands import argument_types
from agentd.commands.output import Output
from agentd.commands.parser import Parser, add_command
from agentd.commands.to_fleet import add_fleet_arguments
from agentd.commands.wait_for_fleet import add_wait_for_fleet


def add_arguments(parser: Parser) -> None:
    """What to do with which rollout."""
    parser.add_example("agentd rollout status", "agentd rollout abort deploy --wait")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    status = add_command(verbs, "status", "show which rollouts are open, and how far the nodes are")
    status.add_example("agentd rollout status", "agentd rollout status deploy --json")
    status.add_exit_status("0 if no rollout has failed; 1 if a node refuses one or fails.")
    status.add_argument(
        "name", nargs="?", type=argument_types.kept_name, metavar="NAME", help="only this name (default: all)"
    )
    abort = add_command(verbs, "abort", "end a rollout: all nodes get what they all had before it")
    abort.add_example("agentd rollout abort deploy --wait")
    abort.add_exit_status("0 if it was aborted, with --wait once enough nodes have what they had; 1 if not.")
    abort.add_argument(
        "name", type=argument_types.kept_name, metavar="NAME", help="name of the event that is rolled out"
    )
    add_wait_for_fleet(abort)
    for verb in (status, abort):
        add_fleet_arguments(verb)


def execute(arguments: Namespace, output: Output) -> int:
    """Show or abort; 1 if a node has not taken what it should have, or too few confirm.

    Raises:
        AgentdError: there is nothing to abort, or it is not possible; the text says why.
        ConsulRefused: the token lacks a right; the text has the rule to add.
    """
    if arguments.verb == "abort":
        from agentd.commands.rollout_abort import abort  # noqa: PLC0415 (parsing does without)

        return abort(arguments, output)
    from agentd.commands.rollout_status import show  # noqa: PLC0415 (as above)

    return show(arguments, output)

"""`agentd resume`: lets paused handlers on this node go on with what waits for them."""

from __future__ import annotations

from argparse import Namespace

from agentd.commands import argument_types
from agentd.commands.output import Output, span
from agentd.commands.parser import Parser
from agentd.commands.pause import read_handlers, wait_until_kept


def add_arguments(parser: Parser) -> None:
    """Which handlers."""
    parser.add_example("sudo agentd resume", "sudo agentd resume blacklist")
    parser.add_exit_status("0 if the daemon has gone on, or does not run; 1 if it is not known to.")
    parser.add_argument(
        "handlers",
        nargs="*",
        type=argument_types.word,
        metavar="HANDLER",
        help="only these handlers (default: all)",
    )
    argument_types.add_wait(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Resume them; 1 if the daemon runs and is not known to have gone on.

    Raises:
        AgentdError: there is no such handler, or what is paused cannot be read.
        JournalError: it cannot be written down.
    """
    from agentd.clock import unix_time  # noqa: PLC0415 (parsing does without)
    from agentd.journal.pauses import EVERY, Pauses  # noqa: PLC0415 (as above)

    here = read_handlers(arguments.config)
    names = here.require(arguments.handlers)
    ended = Pauses(here.places.state).resume(names or None, here.pausable)
    if EVERY in ended:
        ended |= dict.fromkeys(here.pausable, ended.pop(EVERY)) | ended
    late = wait_until_kept(here.places, names or here.pausable, arguments.wait, paused=False)
    if output.json:
        output.document({"resumed": sorted(ended), "daemon": here.places.running, "late": late})
    now = unix_time()
    for name, one in sorted(ended.items()):
        output.line(f"{name} goes on, after {span(max(0.0, now - one.since))}.")
    if not ended:
        output.line("Nothing was paused.")
    if late:
        output.line(f"The daemon does not say yet that they go on: {', '.join(late)}; see `agentd status`.")
    elif not here.places.running:
        output.line("The daemon is not running: what waits is applied once it starts.")
    return int(bool(late))

"""`agentd fleet`: shows who runs what, differences first; the exit status is 1 while nodes differ.

Owns the order and the rate of the readings: only while somebody watches, from any server, at least 250 ms
apart. The verbs are in `fleet_forget.py` and `fleet_removal.py`.
"""

from __future__ import annotations

import gc
import sys
import time
from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from agentd.commands import argument_types
from agentd.commands.output import Output, Screen
from agentd.commands.parser import Parser
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import ConsulUnavailable

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.freeze import Freeze
    from agentd.fleet.reading import FleetReader, Reading

PAUSE: Final = 0.25
"""Seconds between two readings, so that a thousand confirmations do not cause a thousand readings."""
_LOOK: Final = 5.0  # seconds until ages and the catalogue are read again, though no document changed


def add_arguments(parser: Parser) -> None:
    """Add the options and the verbs."""
    parser.add_example("agentd fleet", "agentd fleet blacklist --watch", "agentd fleet forget lb3")
    parser.add_exit_status("0 if all nodes agree; 1 if some differ, or if there seems to be no such fleet.")
    parser.usage = "%(prog)s [options] [HANDLER | VERB ...]"
    parser.add_argument(
        "handler",
        nargs="?",
        type=argument_types.word,
        metavar="HANDLER",
        help="compare only this configured handler, on the nodes that have it; write `-- HANDLER` if it is"
        " called like a verb",
    )
    parser.add_argument(
        "--service",
        type=argument_types.word,
        metavar="SERVICE",
        help="expect agentd only on nodes with this service (default: on all nodes in the catalogue)",
    )
    parser.add_argument("--watch", action="store_true", help="keep watching, and show every change")
    forget = parser.add_verb("forget", "remove the acknowledgements of nodes that will not come back")
    forget.add_example("agentd fleet forget lb3", "agentd fleet forget --gone")
    forget.usage = "%(prog)s [options] {NODE... | --gone}"
    forget.add_argument(
        "nodes", nargs="*", type=argument_types.word, metavar="NODE", help="name of such a node"
    )
    forget.add_argument(
        "--gone",
        action="store_true",
        help="all nodes that Consul has not known for 7 days; each run counts a day, at most once a day, so"
        " run it daily",
    )
    forget.add_argument(
        "--force", action="store_true", help="even if agentd may still be running on one of them"
    )
    remove = parser.add_verb("remove", "delete everything that the fleet keeps in Consul")
    remove.add_example("agentd fleet remove --fleet staging", "agentd fleet remove --fleet staging --yes")
    remove.add_argument("--yes", action="store_true", help="delete it for good (default: only list it)")
    remove.add_argument("--force", action="store_true", help="even while nodes acknowledge")
    for one in (forget, remove, parser):
        add_fleet_arguments(one)


def execute(arguments: Namespace, output: Output) -> int:
    """Print the table, or run the verb. Returns 1 if nodes differ.

    Raises:
        AgentdError: no node has such a handler; or as for the verbs.
        ConsulRefused: the token lacks a right.
    """
    if arguments.verb == "forget":
        from agentd.commands.fleet_forget import forget  # noqa: PLC0415 (parsing does without)

        return forget(arguments, output)
    if arguments.verb == "remove":
        from agentd.commands.fleet_removal import remove  # noqa: PLC0415 (as above)

        return remove(arguments, output)
    with fleet(arguments) as reached:
        view = _reader(reached, arguments.handler, arguments.service)
        if arguments.watch:
            _watch(view, output)
        gc.disable()  # everything read stays until the end, so that collecting would be a waste of time
        try:
            return _print(view.look(), output)
        finally:
            gc.enable()


def _reader(reached: ReachedFleet, handler: str | None, service: str | None) -> FleetReader:
    from agentd.fleet.reading import FleetReader  # noqa: PLC0415 (brings what parsing does without)

    def frozen(now: float) -> tuple[Freeze | None, list[str]]:
        from agentd.commands.frozen import read_now  # noqa: PLC0415 (only where there ever was one)

        return read_now(reached, now)

    return FleetReader(reached.client, reached.name, frozen, handler=handler, service=service)


def _print(found: Reading, output: Output) -> int:
    from agentd.commands.fleet_report import document, show  # noqa: PLC0415 (parsing does without)

    if output.json:
        output.document(document(found))
    else:
        show(found, output)
    return int(bool(found.standing.differences) or not found.standing.nodes)


def _watch(view: FleetReader, output: Output) -> NoReturn:
    """Print whenever something has changed, until interrupted."""
    screen = Screen(sys.stdout) if sys.stdout.isatty() and not output.json else None
    while True:
        began = time.monotonic()
        try:
            found = view.look(_LOOK)
        except ConsulUnavailable as error:
            sys.stderr.write(f"agentd: {error}; looking again\n")
            time.sleep(_LOOK)
            continue
        if screen is None:
            _print(found, output)
            sys.stdout.flush()
        else:
            screen.draw(partial(_print, found))
        time.sleep(max(0.0, PAUSE - (time.monotonic() - began)))

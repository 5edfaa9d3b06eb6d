"""`agentd thaw`: ends a freeze of the fleet; the nodes go on with what waits, in order."""

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import suppress
from typing import TYPE_CHECKING

from agentd.commands.freeze import Order, add_wait
from agentd.commands.output import Output, universal
from agentd.commands.parser import Parser
from agentd.commands.to_consul import nothing_yet
from agentd.commands.to_fleet import fleet
from agentd.errors import FleetError

if TYPE_CHECKING:
    from agentd.fleet.freeze import Freeze


def add_arguments(parser: Parser) -> None:
    """Which fleet."""
    parser.add_example("agentd thaw")
    parser.add_exit_status("0 if every node that runs knows of it; 1 if one does not yet.")
    add_wait(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Thaw the fleet; 1 if a node that runs does not know of it yet.

    Raises:
        AgentdError: the thaw was not published; the text says why.
        ConsulUnavailable: there was no answer; it may have been published.
    """
    from agentd.fleet.freeze import read_freeze  # noqa: PLC0415 (parsing does without)

    with fleet(arguments) as reached:
        order = Order(reached, arguments.wait)
        before: Freeze | None = None
        with nothing_yet("published"), suppress(FleetError):  # what cannot be read is replaced
            before = read_freeze(order.log, order.signing.admit, consistent=True)
        # Also if nobody seems to have frozen it: nodes may know of a freeze that Consul has lost.
        told = order.publish("", None, frozen=False)
        output.line(f"The fleet {reached.name} is thawed{_ended(before)}.")
        return order.conclude(told, "go on with what waits", output)


def _ended(before: Freeze | None) -> str:
    if before is None or not before.holds(time.time()):
        return ", and was not frozen as far as is known here"
    return f"; it was {before}, since {universal(before.since)} UTC"

"""Waits until the nodes of a fleet confirm one message, for `agentd fire --wait` and `agentd publish --wait`.

Owns who counts (the nodes that acknowledge the name, and that the message is for), when enough have
confirmed, and when enough no longer can. A refusal is final, and reported at once; so is that nodes hold the
message back, since they may do so for days.
"""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agentd.commands import argument_types
from agentd.commands.fleet_tally import Tally, Teller, print_tally, tally
from agentd.commands.fleet_watch import PAUSE, FleetWatch
from agentd.commands.output import Output, span
from agentd.commands.parser import Parser
from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.fleet.rights import unseen
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.kv import ConsulKV
    from agentd.fleet.newest import Newest
    from agentd.fleet.reader import Reader, Reading
    from agentd.watch.client import ConsulClient

_TIMEOUT: Final = 60.0
_HELD: Final = 6.0  # seconds after which nodes that hold it back are not waited for any longer


def add_wait_for_fleet(parser: Parser) -> None:
    """Add `--wait`, `--quorum` and `--timeout`."""
    group = parser.add_argument_group("Fleet", "For events that nodes keep (`keep:` in the configuration).")
    group.add_argument(
        "--wait",
        action="store_true",
        help="wait until the nodes have applied it; exit status 1 if too few have",
    )
    group.add_argument(
        "--quorum",
        type=percentage,
        default=1.0,
        metavar="P",
        help="share of the nodes that is enough, such as 90%% (default 100%%)",
    )
    group.add_argument(
        "--timeout",
        type=argument_types.some_seconds,
        default=_TIMEOUT,
        metavar="T",
        help=f"give up after this time, counted from the start (default {_TIMEOUT:g}s)",
    )


def percentage(text: str) -> float:
    """Parse a share of the nodes, such as 90%, to a number above 0 and up to 1."""

    def check(given: str) -> float:
        digits = given.removesuffix("%")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 4 and 0 < int(digits) <= 100):  # noqa: PLR2004
            raise ValueError(f"{given!r} is not a percentage from 1% to 100%")
        return int(digits) / 100

    return argument_types.checked(check, text)


class FleetWait:
    """Waits for the nodes that take one name; the timeout runs from now on.

    Args:
        fleet: its name.
        client: a client for its home datacenter; the caller closes it. It asks nothing after the timeout.
        name: of the event.
        arguments: with those of `add_wait_for_fleet`.
    """

    def __init__(self, fleet: str, client: ConsulClient, name: str, arguments: Namespace) -> None:
        from agentd.fleet.keys import Keys, is_kept_name  # noqa: PLC0415 (as above)
        from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)

        if not is_kept_name(name):
            raise AgentdError(f"no node can keep an event named {name!r}: leave out --wait")
        self._fleet = fleet
        self._name = name
        self._client = client
        self._keys = Keys(fleet)
        self._kv: ConsulKV = ConsulKV(client)
        self._quorum: float = arguments.quorum
        self._timeout: float = arguments.timeout
        self._began = time.monotonic()
        self._watch = FleetWatch(client, self._keys, self._timeout)

    @property
    def end(self) -> float:
        """When the timeout is over, in monotonic seconds."""
        return self._watch.end

    # ------------------------------------------------------------------ before

    def begin(self) -> int:
        """Check that some node will confirm. Returns the number of the newest message, or 0.

        Raises:
            AgentdError: no node keeps the name, so none would confirm.
            ConsulRefused: the token may not read the acknowledgements.
        """
        from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

        # Consul leaves out what the token may not see: nodes would not be waited for, or no message found.
        needed = [self._keys.nodes, self._keys.head(self._name), self._keys.messages(self._name)]
        demand(self._client, "read", needed, "waiting for the fleet")
        if not self._watch.census.documents().keep(self._name):
            raise AgentdError(
                f"no node of the fleet {self._fleet!r} keeps {self._name!r}, so nobody would confirm it:"
                f" set `keep: all` or `keep: latest` on that event in agentd.yaml, or leave out --wait"
            )
        self._began = time.monotonic()
        head = self._watch.census.heads([self._name]).heads.get(self._name)
        return head.newest if head else 0

    # ------------------------------------------------------------------ after

    def find_event(self, identity: str, since: int) -> Newest:
        """Wait for the message that a relay makes of an event.

        Args:
            identity: the event's ID.
            since: what `begin` returned before it was fired.

        Raises:
            AgentdError: no relay did within the timeout.
        """
        from agentd.fleet.reader import Reader  # noqa: PLC0415 (as above)

        reader = Reader(self._kv, self._keys)
        while True:
            for reading in self._watch.patiently(partial(self._after, reader, since)):
                for message in reading.messages:
                    if message.event == identity:
                        return self._newest(message)
                since = max([since, *(one.num for one in reading.messages), *reading.troubles])
            if self._watch.left() <= 0:
                raise AgentdError(
                    f"the event {identity} did not reach the log within {span(self._timeout)}: no relay heard"
                    " it, or none can write (see `agentd status` there); nobody knows which nodes applied it"
                )
            time.sleep(min(PAUSE, self._watch.left()))

    def _after(self, reader: Reader, since: int) -> list[Reading]:
        return list(reader.after(self._name, since, reader.head(self._name)))

    def published(self, num: int) -> Newest:
        """The message with that number, which was just written."""
        from agentd.fleet.reader import Reader  # noqa: PLC0415 (as above)

        reader = Reader(self._kv, self._keys)
        message = self._watch.patiently(lambda: reader.message(self._name, num))
        if message is None:
            raise AgentdError(f"{self._name} {num} is no longer in the log: a newer message has replaced it")
        return self._newest(message)

    def _newest(self, message: Envelope) -> Newest:
        if message.service and (why := self._watch.patiently(lambda: unseen(self._client))):
            raise ConsulRefused(f"{message.name} {message.num} is in the log, but {why}")
        return self._watch.patiently(
            lambda: self._watch.census.asked_by(message, self._watch.census.documents().each)
        )

    def conclude(self, find: Callable[[], Newest], told: dict[str, Any], output: Output) -> bool:
        """Wait and show progress, then print how far the nodes are.

        Args:
            find: `find_event` or `published`, without arguments.
            told: what the command tells a program; gets another field, even if it cannot be known how far the
                nodes are, since the message is out in any case.
            output: of the command.

        Returns:
            Whether enough of them confirmed.
        """
        try:
            enough, told["wait"] = self._report(find(), output)
        except AgentdError as error:
            text = str(error)
            if isinstance(error, ConsulUnavailable):
                text += "; which nodes have applied the message is not known: see `agentd fleet`"
            sys.stderr.write(f"agentd: {printable(text)}\n")
            enough, told["wait"] = False, {"error": text}
        return enough

    def _report(self, newest: Newest, output: Output) -> tuple[bool, dict[str, Any]]:
        found = self._wait(newest, Teller(sys.stderr, f"{newest.name} {newest.num}", quiet=output.json))
        took = time.monotonic() - self._began
        if not output.json:
            print_tally(found, newest, took, output)
        return found.enough, {
            "name": newest.name,
            "num": newest.num,
            "nodes": found.nodes,
            "needed": found.needed,
            "confirmed": len(found.confirmed),
            "seconds": round(took, 3),
            "others": [
                {"node": one.node, "state": one.state, "reason": one.reason}
                for one in (*found.refused, *found.waiting)
            ],
            "remarks": [{"node": one.node, "reason": one.reason} for one in found.confirmed if one.reason],
        }

    def _wait(self, newest: Newest, teller: Teller) -> Tally:
        published, held_until = time.time(), math.inf
        while True:
            members = self._watch.patiently(self._watch.members)
            found = tally(members, newest, published, self._quorum)
            teller.tell(found)
            # What a node says may be a moment old.
            held_until = min(held_until, time.monotonic() + _HELD) if found.held else math.inf
            is_over = found.enough or found.hopeless or time.monotonic() >= held_until
            if is_over or self._watch.left() <= 0:
                teller.finish()
                return found
            self._watch.rest()

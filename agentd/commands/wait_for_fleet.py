"""Waits until the nodes of a fleet confirm one message, for `agentd fire --wait` and `agentd publish --wait`.

Owns who counts (the nodes that acknowledge the name, and that the message is for), when enough have
confirmed, when enough no longer can, and the progress shown on standard error, since standard output belongs
to the command. A refusal is final, and reported at once.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

from agentd.commands import argument_types
from agentd.commands.output import Output, shortened, span
from agentd.commands.parser import Parser
from agentd.commands.target import unseen
from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.fleet.census import Census
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.kv import ConsulKV
    from agentd.fleet.members import Catalogue
    from agentd.fleet.reader import Reader, Reading
    from agentd.fleet.standing import Member, Newest, Progress
    from agentd.watch.client import ConsulClient

_PAUSE: Final = 0.25  # seconds between two readings
_AGAIN: Final = 1.0  # seconds until Consul is asked again if it did not answer
_MARGIN: Final = 1.0  # seconds, at most, that the last request gets for its answer
_LONGEST: Final = 5.0  # seconds after which the catalogue is read again, though no document changed
_JITTER: Final = 17 / 16  # by which Consul may exceed the time that a query waits
_SHORTEST: Final = 0.01  # seconds; with less Consul would wait as long as it pleases
_MOST_TOLD: Final = 10  # nodes that refuse, and reasons
_TIMEOUT: Final = 60.0
_ERASE: Final = "\r\033[K"
_Answer = TypeVar("_Answer")


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


@dataclass(frozen=True, slots=True)
class Tally:
    """How many nodes have confirmed, refused, or are waiting; `needed` confirmations are enough."""

    confirmed: tuple[Progress, ...]
    refused: tuple[Progress, ...]
    waiting: tuple[Progress, ...]
    quorum: float

    @property
    def nodes(self) -> int:
        """The number of nodes that count."""
        return len(self.confirmed) + len(self.refused) + len(self.waiting)

    @property
    def needed(self) -> int:
        """The number of nodes that must confirm."""
        return max(1, math.ceil(self.quorum * self.nodes - 1e-9))  # 0.07 * 100 is a little more than 7

    @property
    def enough(self) -> bool:
        """Whether enough have confirmed."""
        return len(self.confirmed) >= self.needed

    @property
    def hopeless(self) -> bool:
        """Whether enough no longer can."""
        return len(self.confirmed) + len(self.waiting) < self.needed


def tally(members: Sequence[Member], newest: Newest, now: float, quorum: float) -> Tally:
    """Count; `now` is the time of publishing, since the message may expire during the wait."""
    from agentd.fleet.standing import progress, takers  # noqa: PLC0415 (parsing does without)

    found = sorted((progress(one, newest) for one in takers(members, newest, now)), key=lambda one: one.node)
    states = {
        state: tuple(one for one in found if one.state == state)
        for state in ("confirmed", "refused", "waiting")
    }
    return Tally(states["confirmed"], states["refused"], states["waiting"], quorum)


class FleetWait:
    """Waits for the nodes that take one name; the timeout runs from now on.

    Args:
        fleet: its name.
        client: a client for its home datacenter; the caller closes it. It asks nothing after the timeout.
        name: of the event.
        arguments: with those of `add_wait_for_fleet`.

    Attributes:
        end: when the timeout is over, in monotonic seconds.
    """

    def __init__(self, fleet: str, client: ConsulClient, name: str, arguments: Namespace) -> None:
        from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
        from agentd.fleet.keys import Keys, is_kept_name  # noqa: PLC0415 (as above)
        from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)

        if not is_kept_name(name):
            raise AgentdError(f"no node can keep an event named {name!r}: leave out --wait")
        self._fleet = fleet
        self._name = name
        self._client = client
        self._keys = Keys(fleet)
        self._kv: ConsulKV = ConsulKV(client)
        self._census: Census = Census(client, self._keys)
        self._quorum: float = arguments.quorum
        self._timeout: float = arguments.timeout
        self._began = time.monotonic()
        self.end: float = self._began + self._timeout
        client.end_by(self.end)
        self._index = 0
        self._nodes: AbstractSet[str] = frozenset()  # those with a document
        self._catalogue: Catalogue | None = None
        self._mute: list[Member] = []  # nodes where agentd runs without acknowledging
        self._read = 0.0  # when these two were read

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
        if not self._census.documents().keep(self._name):
            raise AgentdError(
                f"no node of the fleet {self._fleet!r} keeps {self._name!r}, so nobody would confirm it:"
                f" set `keep: all` or `keep: latest` on that event in agentd.yaml, or leave out --wait"
            )
        self._began = time.monotonic()
        head = self._census.heads([self._name]).heads.get(self._name)
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
            for reading in self._patiently(partial(self._after, reader, since)):
                for message in reading.messages:
                    if message.event == identity:
                        return self._newest(message)
                since = max([since, *(one.num for one in reading.messages), *reading.troubles])
            if self._left() <= 0:
                raise AgentdError(
                    f"the event {identity} did not reach the log within {span(self._timeout)}: no relay heard"
                    " it, or none can write (see `agentd status` there); nobody knows which nodes applied it"
                )
            time.sleep(min(_PAUSE, self._left()))

    def _after(self, reader: Reader, since: int) -> list[Reading]:
        return list(reader.after(self._name, since, reader.head(self._name)))

    def published(self, num: int) -> Newest:
        """The message with that number, which was just written."""
        from agentd.fleet.reader import Reader  # noqa: PLC0415 (as above)

        reader = Reader(self._kv, self._keys)
        message = self._patiently(lambda: reader.message(self._name, num))
        if message is None:
            raise AgentdError(f"{self._name} {num} is no longer in the log: a newer message has replaced it")
        return self._newest(message)

    def _newest(self, message: Envelope) -> Newest:
        if message.service and (why := self._patiently(lambda: unseen(self._client))):
            raise ConsulRefused(f"{message.name} {message.num} is in the log, but {why}")
        return self._patiently(lambda: self._census.asked_by(message, self._census.documents().each))

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
        found = self._wait(newest, _Teller(sys.stderr, f"{newest.name} {newest.num}", quiet=output.json))
        took = time.monotonic() - self._began
        if not output.json:
            _print(found, newest, took, output)
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

    def _wait(self, newest: Newest, teller: _Teller) -> Tally:
        published = time.time()
        while True:
            began = time.monotonic()
            members = self._patiently(self._members)
            found = tally(members, newest, published, self._quorum)
            teller.tell(found)
            if found.enough or found.hopeless or self._left() <= 0:
                teller.finish()
                return found
            time.sleep(max(0.0, min(self._left(), _PAUSE - (time.monotonic() - began))))

    def _members(self) -> list[Member]:
        """The nodes, once a document has changed, or a while has passed."""
        wait = min(self._left() / _JITTER, _LONGEST)
        documents = self._census.documents(self._index if wait > _SHORTEST else 0, wait)
        is_old = time.monotonic() - self._read > _LONGEST or not self._nodes <= documents.indexes.keys()
        if self._catalogue is None or is_old:
            self._catalogue = self._census.catalogue(documents.datacenters)
            every = self._census.members(documents, self._catalogue)
            self._mute = [one for one in every if one.runs_as]
            self._read = time.monotonic()
        self._index, self._nodes = documents.index, documents.indexes.keys()
        members = self._census.members(documents, self._catalogue, frozenset())
        return [*members, *(one for one in self._mute if not documents.are_of(one))]

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask Consul again while it does not answer, as during an election, and time is left.

        Raises:
            ConsulUnavailable: it never answered.
        """
        while True:
            try:
                return ask()
            except ConsulUnavailable:
                time.sleep(min(_AGAIN, self._left()))
                if self._left() <= 0:
                    raise

    def _left(self) -> float:
        """Seconds until nothing more is asked, so that what was asked before has time for its answer."""
        left = self.end - min(_MARGIN, self._timeout / 10) - time.monotonic()
        return max(0.0, left)


class _Teller:
    """Shows progress on standard error: on a terminal in one line, otherwise only final results."""

    def __init__(self, stream: TextIO, what: str, *, quiet: bool) -> None:
        self._stream = stream
        self._what = what
        self._quiet = quiet
        self._live = stream.isatty() and not quiet
        self._told: set[str] = set()

    def tell(self, found: Tally) -> None:
        for one in found.refused:
            if one.node not in self._told and len(self._told) < _MOST_TOLD and not self._quiet:
                self._told.add(one.node)
                line = printable(f"{one.node}: {one.reason}")
                self._write(f"{_ERASE if self._live else ''}agentd: {line}\n")
        if self._live:
            waits = ", ".join(f"{one.node} ({one.reason})" for one in found.waiting[:3])
            line = f"{self._what}: {len(found.confirmed)} of {found.nodes}"
            line += f"; waits for {waits}" if waits else ""
            self._write(f"{_ERASE}{shortened(printable(line), shutil.get_terminal_size().columns - 1)}")

    def finish(self) -> None:
        if self._live:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _print(found: Tally, newest: Newest, took: float, output: Output) -> None:
    from agentd.commands.fleet_report import listed  # noqa: PLC0415 (as above)

    if not found.nodes:
        output.line(f"{newest.name} {newest.num} is for none of the nodes that acknowledge.", "red")
        return
    enough = "" if found.needed == found.nodes else f" ({found.needed} are enough)"
    text = f"{newest.name} {newest.num}: in force on {len(found.confirmed)} of {found.nodes} nodes{enough}"
    output.line(f"{text} after {span(took)}", "green" if found.enough else "red")
    rows = []
    remarks = (one for one in found.confirmed if one.reason)
    others = sorted((*found.refused, *found.waiting, *remarks), key=lambda one: (one.state, one.reason))
    for (state, reason), same in groupby(others, key=lambda one: (one.state, one.reason)):
        nodes = [one.node for one in same]
        rows.append([state, len(nodes), listed(nodes, 40), reason])
    if rows:
        output.table(("STATE", "NODES", "WHICH", "WHY"), rows[:_MOST_TOLD])
    if rows[_MOST_TOLD:]:
        output.line(f"... and {len(rows) - _MOST_TOLD} other reasons: see --json")

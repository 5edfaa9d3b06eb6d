"""`agentd fleet`: shows who runs what, differences first; the exit status is 1 while nodes differ.

Owns the order and the rate of the readings: only while somebody watches, from any server, at least 250 ms
apart. The verbs are in `fleet_forget.py` and `fleet_removal.py`.
"""

from __future__ import annotations

import gc
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from agentd.commands import argument_types
from agentd.commands.output import Output, Screen, span
from agentd.commands.parser import Parser
from agentd.commands.target import unseen
from agentd.commands.to_fleet import add_fleet_arguments, fleet, unheard_of
from agentd.errors import AgentdError, ConsulUnavailable

if TYPE_CHECKING:
    from agentd.commands.fleet_report import Found
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.census import Census, Heads
    from agentd.fleet.freeze import Freeze
    from agentd.fleet.keys import Keys
    from agentd.fleet.members import Catalogue, Documents

PAUSE: Final = 0.25
"""Seconds between two readings, so that a thousand confirmations do not cause a thousand readings."""
_LOOK: Final = 5.0  # seconds until ages and the catalogue are read again, though no document changed
_MOST_NOTED: Final = 5


def add_arguments(parser: Parser) -> None:
    """Add the options and the verbs."""
    parser.add_example("agentd fleet", "agentd fleet blacklist --watch", "agentd fleet forget lb3")
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
        metavar="S",
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
        view = _View(reached, arguments.handler, arguments.service)
        if arguments.watch:
            _watch(view, output)
        gc.disable()  # everything read stays until the end, so that collecting would be a waste of time
        try:
            return _print(view.look(), output)
        finally:
            gc.enable()


def _print(found: Found, output: Output) -> int:
    from agentd.commands.fleet_report import document, show  # noqa: PLC0415 (parsing does without)

    if output.json:
        output.document(document(found))
    else:
        show(found, output)
    return int(bool(found.standing.differences) or not found.standing.nodes)


def _watch(view: _View, output: Output) -> NoReturn:
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


class _View:
    """Reads the fleet repeatedly, each time documents first and heads last."""

    def __init__(self, reached: ReachedFleet, handler: str | None, service: str | None) -> None:
        from agentd.fleet.census import Census  # noqa: PLC0415 (brings what parsing does without)
        from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)

        self._reached = reached
        self._client = reached.client
        self._keys: Keys = Keys(reached.name)
        self._census: Census = Census(reached.client, self._keys)
        self._handler = handler
        self._service = service
        self._index = 0
        self._may_read = False

    def look(self, wait: float = 0.0) -> Found:
        """Read the fleet. From the second time on, wait for a change first, at most `wait` seconds.

        Raises:
            AgentdError: no node has the handler.
            ConsulUnavailable, ConsulRefused: it cannot be read.
        """
        from agentd.commands.fleet_report import Found  # noqa: PLC0415 (as above)
        from agentd.fleet.standing import standing  # noqa: PLC0415 (as above)

        self._demand_rights()
        documents = self._census.documents(self._index, wait)
        self._index = documents.index
        catalogue = self._census.catalogue(documents.datacenters)
        heads = self._census.heads()
        expected = self._census.nodes_of(self._service) if self._service else None
        every = self._census.members(documents, catalogue, expected)
        if self._handler:
            _known(self._handler, documents)
        now = time.time()
        asked = self._census.newest(heads, documents.each)
        judged = standing(every, asked, now, self._handler, heads.unreadable)
        freeze, why = self._freeze(heads, now)
        notes = [*why, *self._notes(documents, catalogue, heads), *self._aims(heads), *_ahead(documents, now)]
        return Found(self._keys.fleet, now, every, heads, asked, judged, notes, freeze)

    def _freeze(self, heads: Heads, now: float) -> tuple[Freeze | None, list[str]]:
        """The freeze that holds now; or what to note if that cannot be told."""
        from agentd.fleet.freeze import NAME  # noqa: PLC0415 (as above)

        if NAME not in heads.heads and NAME not in heads.unreadable:
            return None, []
        from agentd.commands.frozen import read_now  # noqa: PLC0415 (only where there ever was one)

        return read_now(self._reached, now)

    def _demand_rights(self) -> None:
        """Require the right to read, since Consul just leaves out what the token may not see.

        Raises:
            ConsulRefused: with the rules to add.
        """
        from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

        if not self._may_read:
            demand(self._client, "read", [self._keys.nodes, self._keys.names], "looking at the fleet")
            self._may_read = True

    def _aims(self, heads: Heads) -> Iterator[str]:
        """Why the nodes that should have a message may be others than it seems."""
        aimed = sorted(name for name, message in heads.messages.items() if message.service)
        if aimed and (why := unseen(self._client)):
            yield f"cannot tell which nodes the newest message of {aimed[0]} is for: {why}"

    def _notes(self, documents: Documents, catalogue: Catalogue, heads: Heads) -> Iterator[str]:
        from agentd.fleet.registration import SERVICE  # noqa: PLC0415 (as above)
        from agentd.fleet.rights import missing_rules  # noqa: PLC0415 (as above)

        if not documents.indexes:
            yield unheard_of(self._keys.fleet)
        if not catalogue.ids:
            yield (
                "cannot tell which Consul agents are down and which nodes lack agentd: add to the token's"
                ' policy: node_prefix "" { policy = "read" }'
            )
        elif self._client.authorized("service", "read", SERVICE) is False:
            yield (
                "cannot tell where agentd fails its health check: add to the token's policy:"
                f' service "{SERVICE}" {{ policy = "read" }}'
            )
        lacking: list[str] = []
        if heads.unreadable and not heads.messages:
            lacking = missing_rules(self._client, "read", map(self._keys.messages, heads.heads))
        if lacking:
            some = " ".join(lacking[:_MOST_NOTED])
            yield f"cannot tell who published: add to the token's policy: {some}"
            heads = replace(heads, unreadable={})
        for junk, prefix in ((documents.junk, self._keys.nodes), (heads.junk, self._keys.names)):
            if junk:
                yield f"{junk} keys below {prefix} were ignored: not written by agentd, or too large"
        for name, why in sorted(heads.unreadable.items())[:_MOST_NOTED]:
            yield f"{name}: {why}"
        newer = sorted(node for node, one in documents.found.items() if one.unread)
        if newer:
            more = f" and {len(newer) - 1} more" if newer[1:] else ""
            yield (
                f"{newer[0]}{more} acknowledged in a newer format, which was read only in part:"
                " upgrade agentd here"
            )


def _ahead(documents: Documents, now: float) -> Iterator[str]:
    """The nodes whose document is from the future; that a clock is behind shows in no document."""
    from agentd.fleet.receipt import CLOCKS_APART  # noqa: PLC0415 (parsing does without)

    ahead = sorted(((one.written - now, node) for node, one in documents.found.items()), reverse=True)
    wrong = [(off, node) for off, node in ahead if off > CLOCKS_APART]
    if wrong:
        off, node = wrong[0]
        more = f" and those of {len(wrong) - 1} more nodes" if wrong[1:] else ""
        yield f"the clock of {node}{more} is ahead of this host's, by {span(off)}: check that both run NTP"


def _known(handler: str, documents: Documents) -> None:
    """Raises AgentdError if no node has such a handler."""
    names = {name for one in documents.found.values() for name in one.handlers}
    if handler not in names:
        some = ", ".join(sorted(names)[:20]) or "none"
        raise AgentdError(f"no node has a handler {handler!r}; the nodes have: {some}")

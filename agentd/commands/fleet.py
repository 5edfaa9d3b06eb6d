"""`agentd fleet`: who runs what. What differs comes first; the exit status is 1 while something does.

Owns the order of the readings, and how often they are made: only while somebody looks, from any server, at
least 250 ms apart. `forget` removes the documents of nodes that will not come back.
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
from agentd.commands.output import Output, Screen
from agentd.commands.parser import Parser
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import AgentdError, ConfigError, ConsulUnavailable

if TYPE_CHECKING:
    from agentd.commands.fleet_report import Found
    from agentd.fleet.census import Catalogue, Census, Documents, Heads
    from agentd.fleet.keys import Keys
    from agentd.fleet.standing import Member
    from agentd.watch.client import ConsulClient

PAUSE: Final = 0.25
"""Seconds between two readings, so that a thousand nodes that confirm are not a thousand readings."""
_LOOK: Final = 5.0  # seconds until ages and the catalogue are read again, though no document changed
_MOST_NOTED: Final = 5


def add_arguments(parser: Parser) -> None:
    """What to look at, or the node to forget."""
    parser.add_example("agentd fleet", "agentd fleet blacklist --watch", "agentd fleet forget lb3")
    parser.usage = "%(prog)s [options] [HANDLER | forget NODE... | remove]"
    parser.add_argument(
        "words",
        nargs="*",
        type=argument_types.word,
        metavar="HANDLER",
        help="compare only this configured handler, on the nodes that have it. `forget NODE` removes the"
        " acknowledgement of a node that will not come back. `remove` lists everything that the fleet keeps"
        " in Consul, and with --yes deletes it, once no node has `fleet:` any more",
    )
    parser.add_argument(
        "--service",
        type=argument_types.word,
        metavar="S",
        help="expect agentd only on nodes with this service (default: on all nodes in the catalogue)",
    )
    parser.add_argument("--watch", action="store_true", help="keep watching, and show every change")
    parser.add_argument("--yes", action="store_true", help="with `remove`: delete it for good")
    parser.add_argument(
        "--force",
        action="store_true",
        help="with `remove`: even while nodes acknowledge; with `forget`: even if agentd may still run there",
    )
    add_fleet_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Print the table; 1 if nodes differ.

    Raises:
        AgentdError: there is no such handler or node, or the node is alive.
        ConsulRefused: the token may not read the documents.
    """
    words = arguments.words
    if arguments.yes and words != ["remove"]:
        raise ConfigError(["--yes goes with `agentd fleet remove`"])
    if arguments.force and words[:1] not in (["remove"], ["forget"]):
        raise ConfigError(["--force goes with `agentd fleet remove` and `agentd fleet forget`"])
    if words[:1] == ["forget"] and len(words) > 1:
        return _forget(arguments, list(dict.fromkeys(words[1:])), output)
    if words == ["remove"]:
        from agentd.commands.fleet_removal import remove  # noqa: PLC0415 (parsing does without)

        return remove(arguments, output)
    if len(words) > 1:
        raise AgentdError(f"one handler at most is judged, not {len(words)}; `agentd fleet --help` says more")
    with fleet(arguments) as reached:
        view = _View(reached.name, reached.client, words[0] if words else None, arguments.service)
        if arguments.watch:
            _watch(view, output)
        gc.disable()  # what is read lives until the end: to look through it again and again takes a while
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
    """Print whenever something has changed, until somebody interrupts."""
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
    """Looks at the fleet again and again; each time documents first, heads last."""

    def __init__(self, name: str, client: ConsulClient, handler: str | None, service: str | None) -> None:
        from agentd.fleet.census import Census  # noqa: PLC0415 (brings what parsing does without)
        from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)

        self._client = client
        self._keys: Keys = Keys(name)
        self._census: Census = Census(client, self._keys)
        self._handler = handler
        self._service = service
        self._index = 0
        self._may_read = False

    def look(self, wait: float = 0.0) -> Found:
        """All of it; with a `wait`, from the second time on, once a document changed or the wait is over.

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
        asked = self._census.newest(heads, documents.found)
        judged = standing(every, asked, now, self._handler, heads.unreadable)
        notes = list(self._notes(documents, catalogue, heads))
        return Found(self._keys.fleet, now, every, heads, asked, judged, notes)

    def _demand_rights(self) -> None:
        """Consul leaves out what the token must not see, as that of a node which sees its own document alone.

        Raises:
            ConsulRefused: with the rules to add.
        """
        from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

        if not self._may_read:
            demand(self._client, "read", [self._keys.nodes, self._keys.names], "looking at the fleet")
            self._may_read = True

    def _notes(self, documents: Documents, catalogue: Catalogue, heads: Heads) -> Iterator[str]:
        from agentd.fleet.registration import SERVICE  # noqa: PLC0415 (as above)
        from agentd.fleet.rights import missing_rules  # noqa: PLC0415 (as above)

        if not documents.indexes:
            yield f"no node acknowledges in the fleet {self._keys.fleet!r}: is that its name?"
        if not catalogue.ids:
            yield (
                "which agents are down and which nodes lack agentd is unknown: the token may not read nodes;"
                ' add to its policy: node_prefix "" { policy = "read" }'
            )
        elif self._client.authorized("service", "read", SERVICE) is False:
            yield (
                "where agentd does not answer its health check is unknown: the token may not read it;"
                f' add to its policy: service "{SERVICE}" {{ policy = "read" }}'
            )
        lacking: list[str] = []
        if heads.unreadable and not heads.messages:
            lacking = missing_rules(self._client, "read", map(self._keys.messages, heads.heads))
        if lacking:
            some = " ".join(lacking[:_MOST_NOTED])
            yield f"who published is unknown: add to the token's policy: {some}"
            heads = replace(heads, unreadable={})
        for junk, prefix in ((documents.junk, self._keys.nodes), (heads.junk, self._keys.names)):
            if junk:
                yield f"{junk} keys below {prefix} are none of agentd's, or too much, and were left unread"
        for name, why in sorted(heads.unreadable.items())[:_MOST_NOTED]:
            yield f"{name}: {why}"
        newer = sorted(node for node, one in documents.found.items() if one.unread)
        if newer:
            more = f" and {len(newer) - 1} more" if newer[1:] else ""
            yield f"newer than this agentd, and read in part, is what {newer[0]}{more} acknowledges: upgrade"


def _known(handler: str, documents: Documents) -> None:
    """Raises AgentdError if no node has such a handler."""
    names = {name for one in documents.found.values() for name in one.handlers}
    if handler not in names:
        some = ", ".join(sorted(names)[:20]) or "none"
        advice = "; `agentd fleet forget NODE` needs the node that is gone" if handler == "forget" else ""
        raise AgentdError(f"no node has a handler {handler!r}; those that nodes acknowledge: {some}{advice}")


# ---------------------------------------------------------------- forget


def _forget(arguments: Namespace, nodes: list[str], output: Output) -> int:
    """Remove the documents of nodes that are gone; all of them, or none if there is anything against one.

    Raises:
        AgentdError: there is none, or the node would write it again.
    """
    from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.watch.kv import KeyValueStore  # noqa: PLC0415 (as above)

    with fleet(arguments) as reached:
        keys = Keys(reached.name)
        census = Census(reached.client, keys)
        documents = census.documents()
        for node in nodes:
            if node not in documents.indexes:
                raise AgentdError(
                    f"no node {node!r} acknowledges in the fleet {reached.name!r}: see `agentd fleet`"
                )
        for member in census.members(documents, census.catalogue(documents.datacenters)):
            if member.node in nodes and not arguments.force:
                _refuse_alive(member)
        store = KeyValueStore(reached.client)
        for node in nodes:
            if not store.delete(keys.node(node), documents.indexes[node]):
                raise AgentdError(f"{node} has just acknowledged again: look at `agentd fleet`")
            output.line(f"{node} is forgotten.", "green")
    if output.json:
        output.document({"forgotten": nodes})
    return 0


def _refuse_alive(member: Member) -> None:
    """Raises AgentdError if there is no sign that agentd does not run there any more."""
    if member.document and member.document.stopped is None and not member.silent:
        raise AgentdError(
            f"agentd runs on {member.node} as far as anybody can tell, and would acknowledge again: stop it"
            " there, and run `agentd leave`; if it is gone for good, add --force"
        )

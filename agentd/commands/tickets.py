"""`agentd tickets`: how far a rotation is, and which session ticket key encrypts where.

From what the nodes acknowledge alone: it needs no key. Lists nodes that differ first. Keys appear only as a
short digest; the documents contain nothing else of them.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.commands import argument_types
from agentd.commands.output import Output, span
from agentd.commands.parser import Parser
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import AgentdError, ConsulRefused
from agentd.handler_names import require_handler
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.fleet.acknowledgement import Acknowledgement
    from agentd.fleet.rotation_report import Rotation

_RING: Final = "ring"  # what the handlers of ticket keys report it as; see `Handler.report`
_HELD: Final = "keys"  # and how many there are, if that are more than are listed
_MOST_KEYS: Final = 16
_MOST_HELD: Final = 1000
_MOST_ROWS: Final = 40  # on a terminal, as the next one
_MOST_WAITS: Final = 10
_LONGEST: Final = 32  # characters of a digest
_LATEST: Final = 1e11  # unix seconds: a year of four digits
_NAMES: Final = 40  # characters of a list of nodes


def add_arguments(parser: Parser) -> None:
    """Add the option for the handler."""
    parser.add_example("agentd tickets", "agentd tickets --json | jq '.[].ring[0]'")
    parser.add_exit_status("0 if all nodes encrypt with the same key; 1 if they do not.")
    parser.add_argument(
        "--handler", type=argument_types.word, metavar="HANDLER", help="only the keys of this handler"
    )
    add_fleet_arguments(parser)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a ring; times are unix seconds, None if something has not happened yet."""

    digest: str
    since: float | None
    promoted: float | None
    demoted: float | None


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys of one handler on one node, the encrypting one first."""

    node: str
    handler: str
    keys: tuple[Key, ...]
    more: int = 0
    """How many keys there are besides, which the node does not list."""

    @property
    def digests(self) -> tuple[str, ...]:
        """The key by which rings are compared."""
        return tuple(key.digest for key in self.keys)


def execute(arguments: Namespace, output: Output) -> int:
    """Print each rotation, and each ring with the nodes that have it; 1 if nodes encrypt with different keys.

    Raises:
        AgentdError: no node acknowledges any.
    """
    from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.keys import Keys, is_kept_name  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)
    from agentd.fleet.rotation_report import rotations  # noqa: PLC0415 (as above)

    with fleet(arguments) as reached:
        keys = Keys(reached.name)
        demand(reached.client, "read", [keys.nodes], "reading the acknowledgements")
        census = Census(reached.client, keys)
        documents = census.documents()
        catalogue = census.catalogue(documents.datacenters)
        members = census.members(documents, catalogue, frozenset())
        told = rotations(members)
        heads: Mapping[str, int] = {}
        with suppress(ConsulRefused):  # without the right, the nodes are believed
            found = census.heads({one.name for one in told if is_kept_name(one.name)}).heads
            heads = {name: head.newest for name, head in found.items()}
    under = {one.handler: one for one in rotations(members, heads)}
    every = rings_of(documents.found)
    if arguments.handler and every:
        require_handler(arguments.handler, (one.handler for one in every), "keys are acknowledged by")
    rings = [one for one in every if arguments.handler in (None, one.handler)]
    if not rings:
        raise AgentdError(f"no node of the fleet {reached.name!r} acknowledges session ticket keys")
    if output.json:
        output.document([_told(one, under.get(one.handler)) for one in rings])
    else:
        for rotation in under.values():
            if arguments.handler in (None, rotation.handler):
                _print_rotation(rotation, output, time.time())
        _print(rings, output, time.time())
    return int(len({(one.handler, one.digests[:1]) for one in rings}) > len({one.handler for one in rings}))


def rings_of(found: Mapping[str, Acknowledgement]) -> list[Ring]:
    """The rings that the nodes report; malformed parts of a report are left out."""
    return [
        Ring(node, handler, keys := tuple(_keys(reported)), _more(document, handler, len(keys)))
        for node, document in sorted(found.items())
        for handler, reported in sorted(document.reported(_RING).items())
    ]


def _keys(reported: Any) -> Iterator[Key]:  # noqa: ANN401 (any JSON)
    for one in reported[:_MOST_KEYS] if isinstance(reported, list) else ():
        if isinstance(one, Mapping) and isinstance(one.get("key"), str):
            times = (_time(one.get(name)) for name in ("since", "promoted", "demoted"))
            yield Key(printable(one["key"][:_LONGEST]), *times)


def _more(document: Acknowledgement, handler: str, listed: int) -> int:
    held = document.reported(_HELD).get(handler)
    return held - listed if type(held) is int and listed < held <= _MOST_HELD else 0


def _time(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < _LATEST else None  # type: ignore[operator, arg-type] # a number


def _told(ring: Ring, rotation: Rotation | None) -> dict[str, Any]:
    waits = rotation.waits if rotation else ()
    newest = {"phase": rotation.phase, "since": rotation.since, "num": rotation.num} if rotation else None
    return {
        "node": ring.node,
        "handler": ring.handler,
        "rotation": newest,
        "waits": next((one.reason or "waiting" for one in waits if one.node == ring.node), None),
        "ring": [
            {"key": key.digest, "since": key.since, "promoted": key.promoted, "demoted": key.demoted}
            for key in ring.keys
        ],
        "more": ring.more,
    }


def _print_rotation(rotation: Rotation, output: Output, now: float) -> None:
    """One line: the phase, since when, and who is in the way; and for each of those the reason."""
    age = span(max(0.0, now - rotation.since))
    told = f"{rotation.handler}: {rotation.phase} for {age} (message {rotation.num})"
    waits = rotation.waits if rotation.is_under_way else ()
    overdue = rotation.overdue(now)
    many = "1 node" if len(waits) == 1 else f"{len(waits)} nodes"
    output.line(told + (f", waits for {many}" if waits else ""), "red" if overdue else None)
    most = len(waits) if output.width is None else _MOST_WAITS
    for one in waits[:most]:
        output.line(f"  {one.node}: {one.reason or 'has not confirmed it'}", "red" if overdue else "yellow")
    if waits[most:]:
        output.line(f"  ... and {len(waits) - most} more: see --json")
    if overdue:
        output.line("  It has waited for more than an hour: see `agentd rotate-tickets --help`.", "red")


def groups(rings: Sequence[Ring]) -> list[list[Ring]]:
    """The rings grouped by handler and keys; for each handler, the smallest group first."""
    alike: dict[tuple[str, tuple[str, ...]], list[Ring]] = {}
    for one in rings:
        alike.setdefault((one.handler, one.digests), []).append(one)
    return [
        same for _, same in sorted(alike.items(), key=lambda item: (item[0][0], len(item[1]), item[0][1]))
    ]


def _print(rings: Sequence[Ring], output: Output, now: float) -> None:
    from agentd.commands.fleet_report import listed  # noqa: PLC0415 (as above)

    rows: list[list[object]] = []
    for same in groups(rings):
        names = [one.node for one in same]
        nodes = ", ".join(names) if output.width is None else listed(names, _NAMES)
        first = same[0]
        if not first.keys:
            rows.append([first.handler, len(same), nodes, "no key", None, None])
        for at, key in enumerate(first.keys):
            role = (
                "encrypts"
                if at == 0
                else "decrypts"
                if key.demoted
                else "waits"
                if not key.promoted
                else "decrypts"
            )
            known = [since for one in same if (since := one.keys[at].since) is not None]
            age = span(max(0.0, now - min(known))) if known else None
            shown = [first.handler, len(same), nodes] if at == 0 else [" ", " ", " "]
            rows.append([*shown, key.digest, role, age])
        if first.more:
            rows.append([" ", " ", " ", f"and {first.more} more", None, None])
    most = len(rows) if output.width is None else _MOST_ROWS
    output.table(("HANDLER", "NODES", "WHICH", "KEY", "USE", "AGE"), rows[:most])
    if rows[most:]:
        output.line(f"... and {len(rows) - most} more lines: see --json")

"""`agentd tickets`: which session ticket key encrypts where, from what the nodes acknowledge.

Lists nodes that differ first. Keys appear only as a short digest; the documents contain nothing else of them.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.commands import argument_types
from agentd.commands.output import Output, span
from agentd.commands.parser import Parser
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import AgentdError
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.fleet.acknowledgement import Acknowledgement

_RING: Final = "ring"  # what the handlers of ticket keys report it as; see `Handler.report`
_MOST_KEYS: Final = 16
_MOST_ROWS: Final = 40
_LONGEST: Final = 32  # characters of a digest
_LATEST: Final = 1e11  # unix seconds: a year of four digits
_NAMES: Final = 40  # characters of a list of nodes


def add_arguments(parser: Parser) -> None:
    """Add the option for the handler."""
    parser.add_example("agentd tickets", "agentd tickets --json | jq '.[].ring[0]'")
    parser.add_argument(
        "--handler", type=argument_types.word, metavar="H", help="only the keys of this handler"
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

    @property
    def digests(self) -> tuple[str, ...]:
        """The key by which rings are compared."""
        return tuple(key.digest for key in self.keys)


def execute(arguments: Namespace, output: Output) -> int:
    """Print each ring with the nodes that have it; 1 if nodes differ in the key that encrypts.

    Raises:
        AgentdError: no node acknowledges any.
    """
    from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

    with fleet(arguments) as reached:
        keys = Keys(reached.name)
        demand(reached.client, "read", [keys.nodes], "reading the acknowledgements")
        documents = Census(reached.client, keys).documents()
    rings = [one for one in rings_of(documents.found) if arguments.handler in (None, one.handler)]
    if not rings:
        raise AgentdError(f"no node of the fleet {reached.name!r} acknowledges session ticket keys")
    if output.json:
        output.document([_told(one) for one in rings])
    else:
        _print(rings, output, time.time())
    return int(len({(one.handler, one.digests[:1]) for one in rings}) > len({one.handler for one in rings}))


def rings_of(found: Mapping[str, Acknowledgement]) -> list[Ring]:
    """The rings that the nodes report; malformed parts of a report are left out."""
    return [
        Ring(node, handler, tuple(_keys(reported)))
        for node, document in sorted(found.items())
        for handler, reported in sorted(document.reported(_RING).items())
    ]


def _keys(reported: Any) -> Iterator[Key]:  # noqa: ANN401 (any JSON)
    for one in reported[:_MOST_KEYS] if isinstance(reported, list) else ():
        if isinstance(one, Mapping) and isinstance(one.get("key"), str):
            times = (_time(one.get(name)) for name in ("since", "promoted", "demoted"))
            yield Key(printable(one["key"][:_LONGEST]), *times)


def _time(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < _LATEST else None  # type: ignore[operator, arg-type] # a number


def _told(ring: Ring) -> dict[str, Any]:
    return {
        "node": ring.node,
        "handler": ring.handler,
        "ring": [
            {"key": key.digest, "since": key.since, "promoted": key.promoted, "demoted": key.demoted}
            for key in ring.keys
        ],
    }


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
        nodes = listed([one.node for one in same], _NAMES)
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
    output.table(("HANDLER", "NODES", "WHICH", "KEY", "USE", "AGE"), rows[:_MOST_ROWS])
    if rows[_MOST_ROWS:]:
        output.line(f"... and {len(rows) - _MOST_ROWS} more lines: see --json")

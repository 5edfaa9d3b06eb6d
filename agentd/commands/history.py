"""`agentd history`: what arrived, what became of it, and why; payloads are not shown."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from agentd.commands import argument_types
from agentd.commands.output import GrowingTable, Output, moment, one_line, span
from agentd.commands.parser import Parser
from agentd.commands.places import Places, opened_journal, read_places
from agentd.commands.since import since
from agentd.errors import AgentdError
from agentd.handler_names import require_handler
from agentd.journal.history import Wanted, history
from agentd.watch.changes import Event

if TYPE_CHECKING:
    from agentd.journal.journal import Journal

_COLUMNS: Final = (
    "TIME", "HANDLER", "CHANGE", "ID", "OUTCOME", "GENERATION", "ATTEMPTS", "TOOK", "REASON",
)  # fmt: skip
_PROSE: Final = ("REASON",)
_SPARED: Final = frozenset({"GENERATION", "ATTEMPTS", "TOOK"})  # on a terminal that is not wide
_WIDE: Final = 140  # characters
_LIMIT: Final = 30
_LIMIT_BEFORE: Final = 10  # of those that ended before `--follow`
_SHORT_ID: Final = 8
Row = dict[str, Any]


def add_arguments(parser: Parser) -> None:
    """Which changes."""
    parser.add_example(
        "sudo agentd history --handler blacklist",
        "sudo agentd history --failed --since 2h",
        "sudo agentd history --follow",
        "sudo agentd history 3f2a",
    )
    parser.add_argument(
        "id",
        nargs="?",
        type=argument_types.word,
        metavar="ID",
        help="show every detail of the changes whose ID is this, or begins with this",
    )
    parser.add_argument(
        "--handler", type=argument_types.word, metavar="HANDLER", help="only changes for this handler"
    )
    parser.add_argument("--failed", action="store_true", help="only what failed or was refused")
    parser.add_argument(
        "--since",
        type=since,
        metavar="T",
        help="only what arrived or ended since then: 2h (ago), today, yesterday, 14:30, 2026-11-27,"
        ' "2026-11-27 14:30"',
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on, and show each change when it ends, until Ctrl-C; with --json one document a line",
    )
    parser.add_argument(
        "--limit",
        type=argument_types.count,
        metavar="N",
        help=f"show at most N (default {_LIMIT}, with --follow {_LIMIT_BEFORE}, with --since all)",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Print the newest changes, or every detail of those with one ID; or follow."""
    places = read_places(arguments.config)
    wanted = Wanted(arguments.handler, arguments.id, arguments.failed, arguments.since)
    usual = _LIMIT_BEFORE if arguments.follow else _LIMIT
    limit = arguments.limit or (usual if arguments.since is None else sys.maxsize)
    with opened_journal(places.state) as journal:
        _require_known(arguments.handler, places, journal)
        rows = [] if arguments.follow else history(journal, wanted, limit=limit)
    if arguments.follow:
        from agentd.commands.history_follow import follow  # noqa: PLC0415 (seldom needed)

        follow(places.state, wanted, limit, output)
    if arguments.id and not rows:
        raise AgentdError(
            f"no change in the journal has an ID that begins with {arguments.id!r}; see `agentd history`"
        )
    _print([with_state(row) for row in rows], output, details=arguments.id is not None)
    return 0


def _require_known(handler: str | None, places: Places, journal: Journal) -> None:
    """Raise AgentdError if this node neither has such a handler nor had one."""
    if handler is not None and handler not in places.handlers:
        known = {*places.handlers, *journal.handlers()}
        require_handler(handler, known, "the configuration and the journal have")


def _print(told: list[Row], output: Output, *, details: bool) -> None:
    if output.json:
        output.document(told)
    elif details:
        for at, change in enumerate(told):
            if at:
                output.line()
            output.pairs(_details(change))
    elif told:
        history_table(output).add([cells(change, output) for change in told])
    else:
        output.line("There is no such change.")


def history_table(output: Output) -> GrowingTable:
    """The table that `cells` are rows of."""
    return GrowingTable(output, [_COLUMNS[at] for at in _shown(output)], prose=_PROSE)


def _shown(output: Output) -> list[int]:
    """The columns for which there is room; what is left out, the details of a change have."""
    narrow = output.width is not None and output.width < _WIDE
    return [at for at, name in enumerate(_COLUMNS) if not (narrow and name in _SPARED)]


def with_state(row: Row) -> Row:
    """A row of the journal, with what a person wants to know worked out from it; times in unix seconds.

    While `outcome` is None, `state` says what the change is waiting for.
    """
    tried = row["attempts"] + (_state(row) not in ("waiting", "expired"))
    started, finished = row["started"], row["finished"]
    took = finished - started if finished is not None and started is not None else None
    return row | {"state": _state(row), "attempts": tried, "took": took}


def _state(row: Row) -> str:
    if row["outcome"]:
        return str(row["outcome"])
    if row["generation"] is None:
        return "waiting"
    return "not in effect" if row.get("live") and row["reason"] else "awaiting proof"


def short_id(row: Row) -> str:
    """An ID as a table shows it, that every command takes: of an event only the beginning is needed."""
    identity, hashed, copy = str(row["id"]).partition("#")
    if row["kind"] == Event.kind and not identity.startswith(f"{row['name']}-"):  # else a message's number
        identity = identity[:_SHORT_ID]
    return f"{identity}{hashed}{copy}"


def cells(row: Row, output: Output) -> list[object]:
    """A row of the table; on a terminal with a short ID."""
    every = [
        moment(row["received"]),
        row["handler"],
        row["name"] or row["query"],
        row["id"] if output.width is None else short_id(row),
        row["state"],
        row["generation"],
        row["attempts"],
        span(row["took"]),
        one_line(row["reason"]),
    ]
    return [every[at] for at in _shown(output)]


def _details(row: Row) -> dict[str, object]:
    return {
        "id": row["id"],
        "handler": row["handler"],
        "kind": row["kind"],
        "query": row["query"],
        **({"event": row["name"]} if row["name"] else {}),
        "received": moment(row["received"]),
        "outcome": row["state"],
        **({"next attempt": moment(at)} if row["state"] == "waiting" and (at := row["not_before"]) else {}),
        "reason": row["reason"],
        "attempts": row["attempts"],
        "started": moment(row["started"]),
        "finished": moment(row["finished"]),
        "took": span(row["took"]),
        "generation": row["generation"],
        "changed": "\n".join(row["paths"]),
    }

"""`agentd history`: what arrived, what became of it, and why; payloads are not shown."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from agentd.commands import argument_types
from agentd.commands.output import Output, moment, shortened, span
from agentd.commands.parser import Parser
from agentd.commands.places import opened_journal, read_places
from agentd.errors import AgentdError
from agentd.journal.history import history

_COLUMNS: Final = ("TIME", "HANDLER", "CHANGE", "OUTCOME", "GENERATION", "ATTEMPTS", "TOOK", "REASON")
_REASON: Final = 100  # characters of a reason in the table; all of it with the ID
_SHORT_ID: Final = 8
Row = dict[str, Any]


def add_arguments(parser: Parser) -> None:
    """Which changes."""
    parser.add_example("agentd history --handler blacklist", "agentd history 3f2a")
    parser.add_argument(
        "id",
        nargs="?",
        type=argument_types.word,
        metavar="ID",
        help="show every detail of the changes whose ID begins with this",
    )
    parser.add_argument(
        "--handler", type=argument_types.word, metavar="H", help="only changes for this handler"
    )
    parser.add_argument(
        "--limit",
        type=argument_types.count,
        default=30,
        metavar="N",
        help="show at most N (default %(default)s)",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Print the newest changes, or every detail of those with one ID."""
    with opened_journal(read_places(arguments.config).state) as journal:
        rows = history(journal, limit=arguments.limit, handler=arguments.handler, identity=arguments.id)
    if arguments.id and not rows:
        raise AgentdError(
            f"no change in the journal has an ID that begins with {arguments.id!r}; see `agentd history`"
        )
    told = [with_state(row) for row in rows]
    if output.json:
        output.document(told)
    elif arguments.id:
        for at, change in enumerate(told):
            if at:
                output.line()
            output.pairs(_details(change))
    else:
        output.table(_COLUMNS, [_cells(change) for change in told], empty="No change has arrived yet.")
    return 0


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


def label(row: Row) -> str:
    """How a table names a change: events by short ID, published messages by number, states by their query."""
    identity, copy = str(row["id"]).partition("#")[::2]
    suffix = f"#{copy}" if copy else ""
    if row["kind"] == "event":
        number = identity.removeprefix(f"{row['name']}-")
        return f"{row['name']} {number if number.isdecimal() else identity[:_SHORT_ID]}{suffix}"
    return str(row["id"]) if row["kind"] in ("notification", "timer") else f"{row['query']}{suffix}"


def _cells(row: Row) -> list[object]:
    return [
        moment(row["received"]),
        row["handler"],
        label(row),
        row["state"],
        row["generation"],
        row["attempts"],
        span(row["took"]),
        shortened(row["reason"], _REASON),
    ]


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

"""`agentd history`: what came, what became of it, and why; payloads do not show."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from agentd.commands.node import open_node
from agentd.commands.output import Output, moment, span
from agentd.errors import AgentdError

_COLUMNS: Final = ("TIME", "HANDLER", "CHANGE", "OUTCOME", "GENERATION", "ATTEMPTS", "TOOK", "REASON")
_REASON: Final = 100  # characters of a reason in the table; all of it with the ID
_SHORT_ID: Final = 8
Row = dict[str, Any]


def execute(arguments: Namespace, output: Output) -> int:
    """Print the newest changes, or all about those with one ID."""
    with open_node(arguments.config) as node:
        rows = node.journal.history(limit=arguments.limit, handler=arguments.handler, identity=arguments.id)
    if arguments.id and not rows:
        raise AgentdError(
            f"no change in the journal has an ID that begins with {arguments.id!r}; see `agentd history`"
        )
    told = [told_of(row) for row in rows]
    if output.json:
        output.document(told)
    elif arguments.id:
        for at, change in enumerate(told):
            if at:
                output.line()
            output.pairs(_details(change))
    else:
        output.table(_COLUMNS, [_cells(change) for change in told], empty="Nothing came yet.")
    return 0


def told_of(row: Row) -> Row:
    """A row of the journal with what a person wants to know of it worked out; times in unix seconds.

    `outcome` is None as long as it is open; `state` then says what it waits for.
    """
    tried = row["attempts"] + (_state(row) not in ("waiting", "expired"))
    started, finished = row["started"], row["finished"]
    took = finished - started if finished is not None and started is not None else None
    return row | {"state": _state(row), "attempts": tried, "took": took}


def _state(row: Row) -> str:
    if row["outcome"]:
        return str(row["outcome"])
    return "waiting" if row["generation"] is None else "awaiting proof"


def label(row: Row) -> str:
    """How a table names a change: an event by its name and short ID, a state by its query."""
    identity, copy = str(row["id"]).partition("#")[::2]
    suffix = f"#{copy}" if copy else ""
    if row["kind"] == "event":
        return f"{row['name']} {identity[:_SHORT_ID]}{suffix}"
    return str(row["id"]) if row["kind"] in ("notification", "timer") else f"{row['query']}{suffix}"


def _cells(row: Row) -> list[object]:
    reason = " ".join(str(row["reason"]).split())
    return [
        moment(row["received"]),
        row["handler"],
        label(row),
        row["state"],
        row["generation"],
        row["attempts"],
        span(row["took"]),
        reason if len(reason) <= _REASON else f"{reason[: _REASON - 3]}...",
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
        **({"next attempt": moment(row["not_before"])} if _deferred(row) else {}),
        "reason": row["reason"],
        "attempts": row["attempts"],
        "started": moment(row["started"]),
        "finished": moment(row["finished"]),
        "took": span(row["took"]),
        "generation": row["generation"],
        "changed": "\n".join(row["paths"]),
    }


def _deferred(row: Row) -> bool:
    return bool(row["state"] == "waiting" and row["not_before"])

"""Follows what a command owed through the journal, until the daemon ended it or the patience is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentd.apply.outcome import Outcome
from agentd.commands.history import told_of
from agentd.commands.node import Node, wait_for
from agentd.commands.output import Output

Owed = tuple[str, str]
"""Handler and ID of an entry."""


def follow(node: Node, owed: Sequence[Owed], seconds: float) -> list[dict[str, Any]]:
    """The entries as `agentd history --json` tells them, after they ended or `seconds` passed.

    Without a daemon there is nobody to wait for.
    """
    if node.running:
        wait_for(lambda: all(_row(node, one)["finished"] for one in owed), seconds)
    return [told_of(_row(node, one)) for one in owed]


def tell(rows: Sequence[dict[str, Any]], output: Output) -> bool:
    """Print what became of them; True if all ended well."""
    for row in rows:
        reason = f": {row['reason']}" if row["reason"] else ""
        output.line(f"{row['handler']}: {row['state']}{reason}", "green" if _well(row) else "red")
    return all(_well(row) for row in rows)


def _well(row: dict[str, Any]) -> bool:
    return row["outcome"] in (Outcome.APPLIED, Outcome.UNCHANGED)


def _row(node: Node, owed: Owed) -> dict[str, Any]:
    handler, identity = owed
    rows = node.journal.history(handler=handler, identity=identity, limit=1000)
    return next(row for row in rows if row["id"] == identity)

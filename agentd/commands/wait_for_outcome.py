"""Waits in the journal for the outcome of what a command left for the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentd.commands.history import with_state
from agentd.commands.node import Node, wait_for
from agentd.commands.output import Output
from agentd.journal.entry import Entry, Outcome
from agentd.journal.history import Wanted, history
from agentd.journal.pauses import Paused, Pauses
from agentd.watch.changes import Notification

Queued = tuple[str, str]
"""Handler and ID of an entry."""


def wait_for_outcome(node: Node, queued: Sequence[Queued], seconds: float) -> list[dict[str, Any]]:
    """The entries as `agentd history --json` shows them, once they ended or `seconds` have passed.

    Without a daemon, and for handlers that are paused, it does not wait.
    """
    pauses = Pauses(node.loaded.config.state)
    if node.running:
        wait_for(lambda: all(_is_settled(_row(node, one), pauses) for one in queued), seconds)
    return [with_state(_with_pause(_row(node, one), pauses)) for one in queued]


def _is_settled(row: dict[str, Any], pauses: Pauses) -> bool:
    return bool(row["finished"]) or _pause(row, pauses) is not None


def _with_pause(row: dict[str, Any], pauses: Pauses) -> dict[str, Any]:
    paused = _pause(row, pauses)
    return row if paused is None else row | {"reason": str(paused)}


def _pause(row: dict[str, Any], pauses: Pauses) -> Paused | None:
    """Why it waits, if its handler is paused; a notification does not."""
    if row["outcome"] or row["generation"] is not None or row["kind"] == Notification.kind:
        return None
    return pauses.of(row["handler"])


def print_outcomes(rows: Sequence[dict[str, Any]], output: Output) -> bool:
    """Print what became of them; True if all of it went well."""
    for row in rows:
        reason = f": {row['reason']}" if row["reason"] else ""
        output.line(f"{row['handler']}: {row['state']}{reason}", "green" if _succeeded(row) else "red")
    return all(_succeeded(row) for row in rows)


def report_outcomes(node: Node, entries: Sequence[Entry], seconds: float, output: Output) -> bool:
    """Wait for the entries that a command left and print what became of them; True if all ended well."""
    rows = wait_for_outcome(node, [(entry.handler, entry.id) for entry in entries], seconds)
    if output.json:
        output.document(rows)
    well = print_outcomes(rows, output)
    if not node.running:
        output.line("The daemon is not running: the change waits in the journal until it starts.")
    return well


def _succeeded(row: dict[str, Any]) -> bool:
    return row["outcome"] in (Outcome.APPLIED, Outcome.UNCHANGED)


def _row(node: Node, queued: Queued) -> dict[str, Any]:
    handler, identity = queued
    rows = history(node.journal, Wanted(handler, identity), limit=1000)
    return next(row for row in rows if row["id"] == identity)

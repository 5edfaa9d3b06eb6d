"""A dry run: handlers are called here, on what is staged in memory, and nothing is committed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import structlog

from agentd.apply.batch import Batch
from agentd.commands.file_difference import difference, print_difference
from agentd.commands.node import Node
from agentd.commands.output import Output
from agentd.config.load import ConfiguredHandler
from agentd.errors import AgentdError, PermanentError, TemporaryError
from agentd.journal.history import replayable
from agentd.journal.rows import change_of
from agentd.report import log
from agentd.tree.generation import FileEntry
from agentd.tree.stage import Stage
from agentd.watch.changes import Change, Event, Timer


def execute(node: Node, identity: str, only: str | None, output: Output) -> int:
    """Print what each handler that had the change would do; 1 if one would not take it."""
    log.configure("warning")
    told = [
        try_change(node.dry_batch(configured), configured, change)
        for configured, change in _found(node, identity, only)
    ]
    if output.json:
        output.document(told)
    for one in told:
        _print(one, output)
    return int(any(one["outcome"] not in ("changed", "unchanged") for one in told))


def _found(node: Node, identity: str, only: str | None) -> Iterator[tuple[ConfiguredHandler, Change]]:
    """The change for each of its handlers."""
    configured = {handler.name: handler for handler in node.loaded.handlers}
    for row in replayable(node.journal, identity, only):
        if row["handler"] not in configured:
            raise AgentdError(f"the handler {row['handler']!r} that received it is no longer configured")
        yield configured[row["handler"]], _opened(node, change_of(row))


def _opened(node: Node, change: Change) -> Change:
    """The change with its payload, if that came sealed.

    Raises:
        ConfigError: a key of the fleet cannot be used.
        NoFleetKey, BadKey, PermanentError: it cannot be opened.
    """
    if not isinstance(change, Event) or change.sealed is None:
        return change
    from agentd.config.fleet_keys import with_fleet_keys  # noqa: PLC0415 (only what is sealed needs it)
    from agentd.fleet.gate import Gate  # noqa: PLC0415 (as above)

    return Gate(node.loaded.config.trust, with_fleet_keys(node.loaded).fleet_keys).opened(change)


def try_change(batch: Batch, configured: ConfiguredHandler, change: Change) -> dict[str, Any]:
    """One handler's call: what it staged, what it would have run, and how the call ended.

    Args:
        batch: one of the handler's that is never committed (`Node.dry_batch`); closed here.
        configured: the handler.
        change: what it is given.
    """
    with closing(batch.stage):
        outcome, reason = call(configured, [change], batch)
        return {
            "handler": configured.name,
            "change": change.id,
            "outcome": outcome or ("unchanged" if batch.clean else "changed"),
            "reason": reason,
            "files": [
                staged_difference(batch.stage, path, entries)
                for path, entries in batch.stage.entries().items()
                if path in batch.stage.changed
            ],
            "store_changed": batch.new_store is not None,
            "would_run": [argv[0] for argv in batch.would_run],
        }


def call(
    configured: ConfiguredHandler, changes: Sequence[Change], batch: Batch, *, initial: bool = False
) -> tuple[str, str]:
    """Give changes to a new handler object in one batch; return how that ended, and why.

    Args:
        configured: the handler.
        changes: what it is given, in this order.
        batch: one of the handler's; what the calls staged and stored is in it.
        initial: whether its `initial` is called first, as at a start.

    Returns:
        "refused" or "retried" with the reason; two empty strings if it took all of them.
    """
    handler, now = configured.build(), time.time()
    logger = structlog.get_logger().bind(handler=configured.name, dry_run=True)
    context = batch.context(now, logger, place=sys.maxsize)  # as a replay it would be the newest
    try:
        if initial:
            handler.initial(context)
        for change in changes:
            if isinstance(change, Timer):
                handler.due(now, batch.for_next(context))
            else:
                handler.handle(change, batch.for_next(context))
        if not all(isinstance(change, Timer) for change in changes):
            handler.render(batch.for_next(context))
    except PermanentError as error:
        return "refused", str(error)
    except TemporaryError as error:
        return "retried", str(error)
    return "", ""


def staged_difference(
    stage: Stage, path: str, entries: tuple[FileEntry | None, FileEntry | None]
) -> dict[str, Any]:
    """One of the stage's `entries`, as `difference` tells it."""
    return difference(path, *entries, lambda: stage.before(path), lambda: stage.read(path))


def _print(told: dict[str, Any], output: Output) -> None:
    reason = f": {told['reason']}" if told["reason"] else ""
    output.line(f"{told['handler']}: would be {told['outcome']}{reason}", "bold")
    for file in told["files"]:
        print_difference(file, output)
    for program in told["would_run"]:
        output.line(f"  would run {program}")

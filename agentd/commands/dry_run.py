"""A dry run: handlers are called here, on what is staged in memory, and nothing is committed.

A file that others may not read is a secret: only its length and digest are shown, never a line of it.
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import structlog

from agentd.apply.batch import Batch
from agentd.commands.node import Node
from agentd.commands.output import Colour, Output
from agentd.config.load import ConfiguredHandler
from agentd.digest import digest
from agentd.errors import AgentdError, PermanentError, TemporaryError
from agentd.journal.history import replayable
from agentd.journal.rows import change_of
from agentd.report import log
from agentd.watch.changes import Change, Event, Timer

_WORLD_READS: Final = 0o044
_COLOURS: Final[dict[str, Colour]] = {"+": "green", "-": "red"}
_LARGEST: Final = 256 * 1024  # bytes of a file that is compared line by line


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
        outcome, reason = _call(configured, change, batch)
        return {
            "handler": configured.name,
            "change": change.id,
            "outcome": outcome or ("unchanged" if batch.clean else "changed"),
            "reason": reason,
            "files": [_file(*one) for one in batch.stage.diff()],
            "store_changed": batch.new_store is not None,
            "would_run": [argv[0] for argv in batch.would_run],
        }


def _call(configured: ConfiguredHandler, change: Change, batch: Batch) -> tuple[str, str]:
    handler, now = configured.build(), time.time()
    logger = structlog.get_logger().bind(handler=configured.name, dry_run=True)
    context = batch.context(now, logger, place=sys.maxsize)  # as a replay it would be the newest
    try:
        if isinstance(change, Timer):
            handler.due(now, context)
        else:
            handler.handle(change, context)
            handler.render(context)
    except PermanentError as error:
        return "refused", str(error)
    except TemporaryError as error:
        return "retried", str(error)
    return "", ""


def _file(path: str, before: bytes | None, after: bytes | None, mode: int) -> dict[str, Any]:
    """A file that would change; `diff` is None where it must not or cannot be shown."""
    shows = mode & _WORLD_READS and max(len(before or b""), len(after or b"")) <= _LARGEST
    return {
        "path": path,
        "mode": f"{mode:04o}",
        "before": _digest(before),
        "after": _digest(after),
        "diff": _diff(path, before, after) if shows else None,
    }


def _digest(content: bytes | None) -> str:
    return "no file" if content is None else digest(content)


def _diff(path: str, before: bytes | None, after: bytes | None) -> list[str] | None:
    """A unified diff, or None if it is not text."""
    try:
        old, new = ((content or b"").decode().splitlines() for content in (before, after))
    except UnicodeDecodeError:
        return None
    names = ("/dev/null" if before is None else f"a/{path}", "/dev/null" if after is None else f"b/{path}")
    return list(difflib.unified_diff(old, new, *names, lineterm=""))


def _print(told: dict[str, Any], output: Output) -> None:
    reason = f": {told['reason']}" if told["reason"] else ""
    output.line(f"{told['handler']}: would be {told['outcome']}{reason}", "bold")
    for file in told["files"]:
        if file["diff"] is None:
            output.line(f"  {file['path']} (mode {file['mode']}): {file['before']} -> {file['after']}")
        for line in file["diff"] or ():
            output.line(line, _COLOURS.get(line[:1]))
    for program in told["would_run"]:
        output.line(f"  would run {program}")

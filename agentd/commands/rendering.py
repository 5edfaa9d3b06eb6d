"""What a configured handler would write for the states that Consul has: a dry run from its `initial` on.

Owns what is shown of its files. Nothing is committed, and neither tree nor journal is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import structlog

from agentd.apply.batch import Batch
from agentd.apply.joint_states import JointStates
from agentd.commands.current_states import States
from agentd.commands.dry_run import call, staged_difference
from agentd.commands.file_difference import is_public, text_of
from agentd.commands.node import dry_batch
from agentd.commands.places import open_journal
from agentd.config.load import ConfiguredHandler, Loaded
from agentd.configured_tree import open_tree
from agentd.errors import AgentdError
from agentd.journal.journal import Journal
from agentd.tree.stage import Stage
from agentd.watch.changes import Change


@dataclass(frozen=True, slots=True)
class File:
    """One file of a render.

    Attributes:
        told: as in the JSON document.
        content: its bytes; None where they must not be shown, or there is no file any more.
    """

    told: dict[str, Any]
    content: bytes | None

    @property
    def text(self) -> str | None:
        """The content, if it may be shown and is text."""
        return None if self.content is None else text_of(self.content)


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the handler would do.

    Attributes:
        outcome: "changed" or "unchanged" against the current generation, "refused", or "retried".
        reason: why it was refused, or would be tried again.
        generation: the number of the current generation; 0 before the first.
        files: the files of the handler, sorted by path.
        would_run: the programs that it would run.
        held: query -> why there is no state of it.
    """

    outcome: str
    reason: str
    generation: int
    files: Sequence[File]
    would_run: Sequence[str]
    held: dict[str, str]

    @property
    def fine(self) -> bool:
        """Whether the daemon would commit it."""
        return self.outcome in ("changed", "unchanged")


def render(loaded: Loaded, configured: ConfiguredHandler, states: States) -> Rendered:
    """Give the states to the handler, as at a start of the daemon, and drop what it staged.

    Raises:
        AgentdError: there is no state at all; the tree or the journal cannot be read; the handler has a bug.
    """
    tree = open_tree(loaded.config)
    if damage := tree.damage():  # staging would restore it
        raise AgentdError(f"the tree is damaged ({damage}): start the daemon, which restores it")
    journal = open_journal(loaded.config.state)
    with ExitStack() as stack:
        if journal is not None:
            stack.callback(journal.close)
        absent = [one for one in states.absent if _is_believed(one, configured, journal)]
        if not (states.changes or absent or (configured.type.joint and states.absent)):
            held = "; ".join(f"{query}: {why}" for query, why in states.held.items())
            raise AgentdError(f"there is nothing to render: {held}")
        store = journal.store(configured.name, configured.type.store_format) if journal else {}
        batch = dry_batch(loaded, tree, configured, store, journal)
        stack.callback(batch.stage.close)
        batch.states = JointStates(configured, journal, [*states.changes, *absent])
        outcome, reason = _called(configured, [*states.changes, *absent], batch)
        return Rendered(
            outcome or ("changed" if batch.stage.changed else "unchanged"),
            reason,
            batch.generation,
            [] if outcome else _files(batch.stage),
            [argv[0] for argv in batch.would_run],
            {query: why for query, why in states.held.items() if query not in {one.query for one in absent}},
        )


def _is_believed(absent: Change, configured: ConfiguredHandler, journal: Journal | None) -> bool:
    """Whether the daemon takes it for a state: it saw it go, or its handler is given the first answer."""
    newest = journal.newest_state(configured.name, absent.query) if journal else None
    if newest is None:
        return configured.type.joint
    body = newest[1]
    return body is not None and not json.loads(body)


def _called(configured: ConfiguredHandler, changes: Sequence[Change], batch: Batch) -> tuple[str, str]:
    try:
        return call(configured, changes, batch, initial=True)
    except (AgentdError, OSError):
        raise
    except Exception as error:
        structlog.get_logger().exception("handler.bug", handler=configured.name)
        raise AgentdError(
            f"the handler {configured.name!r} has a bug ({type(error).__name__}): the traceback is above"
        ) from error


def _files(stage: Stage) -> list[File]:
    found = []
    for path, (before, after) in stage.entries().items():
        told = staged_difference(stage, path, (before, after))
        if path not in stage.changed:
            status = "unchanged"
        else:
            status = "new" if before is None else "removed" if after is None else "changed"
        content = stage.read(path) if after and is_public(after) else None
        found.append(File({"status": status, **told}, content))
    return found

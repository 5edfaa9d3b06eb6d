"""What a move of `current` means for the journal: recorded before it, carried out after it.

Only values. As JSON (`text` and `parse`), a plan survives a crash between the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Plan:
    """What a commit means.

    Attributes:
        seqs: entries that changed something; they wait for the proof if `proved_by` is not empty.
        unchanged: entries of the same batch that changed nothing.
        ran: those among both that ran a program, and so did something even if no file differs.
        refused: entries of the same batch that were refused, each with its reason.
        store: the handler's whole new store, or None to leave it.
        stores: those of other handlers whose files are in the same commit.
        dropped: handlers whose files the commit removes, because they are no longer configured.
        revision: the handler's revision when the batch began (see `Commits.revision`); None: any.
        notify: handlers to notify.
        proved_by: those among them whose proof the entries wait for.
        verified_by: the handlers that verify what takes effect, itself or notified, whose verdicts the
            entries wait for as well.
        paths: changed paths; the tree determines them.
        started: unix time at which the attempt began.
    """

    handler: str
    seqs: tuple[int, ...] = ()
    unchanged: tuple[int, ...] = ()
    ran: tuple[int, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()
    store: Mapping[str, Any] | None = None
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    revision: int | None = None
    notify: tuple[str, ...] = ()
    proved_by: tuple[str, ...] = ()
    verified_by: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollback:
    """What making another generation current again means.

    Attributes:
        reason: why; recorded with the changes that it undoes.
        stores: every handler's store as it was then.
        numbers: by handler, the numbers of the log's messages that were in force then.
        notify: handlers to notify.
        again: True if changes that were not being proved themselves are handled again; False if all changes
            that are undone have failed, as when an operator rolls back.
        paths: changed paths; the tree determines them.
    """

    reason: str
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notify: tuple[str, ...] = ()
    again: bool = False
    paths: tuple[str, ...] = ()


Move: TypeAlias = Plan | Rollback


def text(move: Move) -> str:
    """As JSON."""
    values = {one.name: getattr(move, one.name) for one in fields(move)}
    return json.dumps({"rollback": isinstance(move, Rollback)} | values)


def parse(body: str) -> Move:
    """Read back what `text` wrote."""
    values = {name: _frozen(value) for name, value in json.loads(body).items()}
    return Rollback(**values) if values.pop("rollback") else Plan(**values)


def _frozen(value: Any) -> Any:  # noqa: ANN401 (JSON)
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value

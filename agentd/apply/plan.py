"""What a move of `current` means for the journal, written down before it and carried out after it.

Values only. `text` and `parse` are how a plan survives a crash between the two.
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
        ran: those of both that ran a program, and so did something even if no file differs.
        refused: entries of the same batch that were refused, each with the reason.
        store: the handler's whole new store, or None to leave it.
        stores: those of other handlers whose files are in the same commit.
        dropped: handlers whose files go with it, since they are not configured any more.
        ground: what the batch stood on (see `Ledger.ground`), or None for whatever is there.
        notify: handlers told.
        proved_by: those of them whose proof the entries wait for.
        paths: changed paths; the tree finds them out.
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
    ground: int | None = None
    notify: tuple[str, ...] = ()
    proved_by: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollback:
    """What making another generation current again means.

    Attributes:
        reason: why, for those whose change is undone by it.
        stores: every handler's store as it was then.
        notify: handlers told.
        again: True if changes that were not under proof themselves are handled again; False if all that is
            undone has failed, as the operator wants it.
        paths: changed paths; the tree finds them out.
    """

    reason: str
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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

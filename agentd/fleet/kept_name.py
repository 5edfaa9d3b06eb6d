"""A kept name, as this node is configured, and how far this node has come with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept name, as configured on this node.

    Attributes:
        name: the event name.
        latest: whether each message replaces the ones before it (`keep: latest`).
        handlers: the configured handlers that take it, each with its `Handler.runs_once`.
        urgent: whether a freeze does not hold it back.
    """

    name: str
    latest: bool
    handlers: Mapping[str, bool]
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class NameStatus:
    """How far this node has come with one name; replaced as a whole, so that any thread may read it.

    Attributes:
        newest: the number of the newest message that was read; above `position` while some have to wait.
        position: the number up to which every handler has been given what concerns it.
        incomplete_since: the number after which messages were pruned that a handler never got, or None.
        waits: why reading is held up, "" if it is not.
        since: unix time since when it is held up, or None.
    """

    newest: int = 0
    position: int = 0
    incomplete_since: int | None = None
    waits: str = ""
    since: float | None = None

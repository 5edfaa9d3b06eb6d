"""The names of handlers that a person types: whether there is one of that name, and which one was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentd.errors import AgentdError

_LISTED: Final = 20


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error: which of the known names this one may stand for, "" if it looks like none."""
    from difflib import get_close_matches  # noqa: PLC0415 (only an error needs it)

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def require_handler(name: str, known: Iterable[str], where: str) -> None:
    """Raise AgentdError if there is no handler of this name; `where` begins the list of what there is."""
    names = sorted(set(known))
    if name not in names:
        some = ", ".join(names[:_LISTED]) or "none"
        more = f" and {len(names) - _LISTED} more" if names[_LISTED:] else ""
        raise AgentdError(f"there is no handler {name!r}: {where} {some}{more}{nearest(name, names)}")

"""Tries a message on this node's handlers before all nodes get it: a dry run that commits nothing.

The configuration tells whether a handler here takes the message; handlers are imported only if one does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.config.yaml_document import Document
    from agentd.fleet.head import Keep
    from agentd.watch.changes import Change

INSTEAD: Final = "publish it anyway with --no-dry-run"
_FINE: Final = ("changed", "unchanged")


def takers(document: Document | None, name: str) -> dict[str, Keep | None]:
    """The configured handlers that take events of that name, each with its `keep`; no handler is imported."""
    handlers = document.data.get("handlers") if document else None
    found: dict[str, Keep | None] = {}
    for handler, entry in handlers.items() if isinstance(handlers, Mapping) else ():
        for on in _list(entry.get("on")) if isinstance(entry, Mapping) else ():
            if isinstance(on, Mapping) and on.get("event") == name:
                keep = on.get("keep")
                found[str(handler)] = keep if keep in ("latest", "all") else None
    return found


def rehearse(path: Path, handlers: Collection[str], change: Change) -> list[dict[str, Any]]:
    """The outcome that each of these handlers would have, as returned by `try_change`.

    Args:
        path: the configuration file.
        handlers: the names of configured handlers.
        change: the change to give to them.

    Raises:
        ConfigError: the configuration cannot be used.
        AgentdError: a handler would refuse it, or cannot be tried; the text says how to publish anyway.
    """
    try:
        told = list(_rehearsed(path, handlers, change))
    except PermissionError as error:
        raise AgentdError(
            f"{error.filename or 'the journal'}: {error.strerror}, so the message cannot be tried on the"
            f" handlers here: run it as root, or {INSTEAD}"
        ) from error
    for one in told:
        if one["outcome"] not in _FINE:
            raise AgentdError(
                f"not published: the handler {one['handler']!r} here would not take it"
                f" ({one['outcome']}: {one['reason']}): correct it, or {INSTEAD}"
            )
    return told


def _rehearsed(path: Path, handlers: Collection[str], change: Change) -> Iterator[dict[str, Any]]:
    # What follows imports the handlers, and pydantic with them.
    from agentd.commands.dry_run import try_change  # noqa: PLC0415
    from agentd.commands.node import dry_batch  # noqa: PLC0415
    from agentd.commands.places import open_journal  # noqa: PLC0415
    from agentd.config.load import load  # noqa: PLC0415
    from agentd.configured_tree import open_tree  # noqa: PLC0415
    from agentd.report import log  # noqa: PLC0415

    log.configure("warning")
    loaded = load(path)
    with ExitStack() as stack:
        journal = open_journal(loaded.config.state)
        if journal is not None:
            stack.callback(journal.close)
        tree = open_tree(loaded.config)
        for configured in loaded.handlers:
            if configured.name in handlers:
                # Before its first start, a node has no journal, and its handlers have empty stores.
                store = journal.store(configured.name, configured.type.store_format) if journal else {}
                try:
                    yield try_change(dry_batch(loaded, tree, configured, store, None), configured, change)
                except (AgentdError, OSError):
                    raise
                except Exception as error:
                    raise AgentdError(
                        f"not published: the handler {configured.name!r} here has a bug"
                        f" ({type(error).__name__}): correct it, or {INSTEAD}"
                    ) from error


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []

"""The format of a handler's store, which goes with the store wherever that is kept.

It owns the one key of a store that is not the handler's. Format 1 needs no mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentd.errors import FormatError

_KEY: Final = "store_format"


def marked(store: Mapping[str, Any], known: int) -> dict[str, Any]:
    """The store as it is kept."""
    return dict(store) if known == 1 else {_KEY: known, **store}


def unmarked(handler: str, kept: Mapping[str, Any], known: int | None) -> dict[str, Any]:
    """The store as the handler knows it.

    Raises:
        FormatError: it has another format than `known`.
    """
    store = dict(kept)
    found = store.pop(_KEY, 1)
    # An empty store has any format.
    if known is not None and store and (found != known or type(found) is not int):
        raise FormatError(
            f"the store of the handler {handler!r}",
            found,
            known,
            "give the handler another name in the configuration to start from scratch",
        )
    return store

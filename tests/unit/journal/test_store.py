"""The format of a handler's store."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.errors import FormatError
from agentd.journal.store import marked, unmarked

STORE: dict[str, Any] = {"ring": [1, 2], "format": "the handler's own"}


@pytest.mark.parametrize("known", [1, 2, 7])
def test_a_store_comes_back_as_it_was(known: int) -> None:
    """The mark is not the handler's to see."""
    assert unmarked("h", marked(STORE, known), known) == STORE


@pytest.mark.parametrize("known", [1, 3])
@pytest.mark.parametrize("found", [2, 99, 0, -1, "1", 1.0, True, None])
def test_an_unknown_format_is_refused(found: object, known: int) -> None:
    """The message names the handler, what was found and what is known, and what to do."""
    with pytest.raises(FormatError) as refused:
        unmarked("h", STORE | {"store_format": found}, known)

    assert str(refused.value) == (
        f"the store of the handler 'h' has format {found!r}, but this agentd only knows format {known};"
        " nothing was changed: run the version of agentd that wrote it, or give the handler another name in"
        " the configuration to start from scratch"
    )


def test_an_empty_store_has_any_format() -> None:
    """A handler that never stored anything may begin with any."""
    assert unmarked("h", {}, 3) == {}


def test_whoever_does_not_use_it_may_read_any() -> None:
    """A gauge is shown whatever else is in the store."""
    assert unmarked("h", marked(STORE, 5), None) == STORE

"""The entries while changes are handled that are committed together: in memory, and written once at the end.

To write them for each of a thousand changes takes a second, and more if there are many. The store counts the
changes that are not written yet: so what one of them did shows, and is dropped with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentd.handler import Context
from handlers.ip_blacklist.entries import Entries

_COUNT: Final = "unwritten"


class Unwritten:
    """The entries as the calls of one batch see and change them.

    Args:
        load: reads what is written.
    """

    def __init__(self, load: Callable[[Context], Entries]) -> None:
        self._load = load
        self._versions: dict[int, Entries] = {}

    def __call__(self, context: Context) -> bool:
        """Whether there are changes that are not written."""
        return _COUNT in context.store

    def current(self, context: Context) -> Entries:
        """The entries now; they are not to be changed, but copied."""
        count = context.store.get(_COUNT, 0)
        return self._versions[count] if count else self._load(context)

    def change(self, now: Entries, context: Context) -> None:
        """Take over the entries after a change: from now on they are the current ones."""
        count = context.store.get(_COUNT, 0) + 1
        # Those before it are current again if this change is refused in the end.
        self._versions = {at: one for at, one in self._versions.items() if at == count - 1}
        self._versions[count] = now
        context.store[_COUNT] = count

    def written(self, context: Context) -> None:
        """All is written, and the batch complete: nothing needs to be kept in memory."""
        context.store.pop(_COUNT, None)
        self._versions.clear()

"""A handler that would show it if a change were applied twice, or never."""

from __future__ import annotations

from agentd.handler import Change, Context, Event, Handler

PATH = "tally/tally.txt"


class Tally(Handler):
    """Appends each event's payload to a file of the tree, and counts in the store."""

    def handle(self, change: Change, context: Context) -> None:
        """Add a line."""
        if isinstance(change, Event):
            before = context.files.read(PATH) or b""
            context.files.write(PATH, before + change.payload + b"\n")
            context.store["count"] = context.store.get("count", 0) + 1

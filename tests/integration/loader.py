"""A handler that stages what an event names by reference."""

from __future__ import annotations

from agentd.handler import Change, Context, Event, Handler

PATH = "loader/payload"


class Loader(Handler):
    """Fetches the reference that is an event's payload."""

    def handle(self, change: Change, context: Context) -> None:
        """Stage what was fetched."""
        if isinstance(change, Event):
            fetched = context.fetch(change.payload.decode())
            context.files.write_file(PATH, fetched)

"""A handler that shows the newest payload of each event."""

from __future__ import annotations

from agentd.handler import Change, Context, Event, Handler


class Noticeboard(Handler):
    """Puts each event's payload into the file `board/NAME`."""

    def handle(self, change: Change, context: Context) -> None:
        """Replace the file."""
        if isinstance(change, Event):
            context.files.write(f"board/{change.name}", change.payload)

"""A handler that would show it if a change were applied twice, or never."""

from __future__ import annotations

from agentd.handler import Change, Context, Drift, Event, Handler, HandlerOptions, Verdict

PATH = "tally/tally.txt"


class Tally(Handler):
    """Appends each event's payload to a file of the tree, and counts in the store."""

    def handle(self, change: Change, context: Context) -> None:
        """Add a line."""
        if isinstance(change, Event):
            before = context.files.read(PATH) or b""
            context.files.write(PATH, before + change.payload + b"\n")
            context.store["count"] = context.store.get("count", 0) + 1


class VerifiedTally(Tally):
    """The same, and every other verdict is that it is not in effect yet."""

    def __init__(self, options: HandlerOptions) -> None:
        super().__init__(options)
        self._asked = 0

    def verify(self, context: Context) -> Verdict:  # noqa: ARG002 (nothing is looked at)
        """Change its mind."""
        self._asked += 1
        return Verdict() if self._asked % 2 else Verdict(drift=(Drift("tally", "not yet"),))

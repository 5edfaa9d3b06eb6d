"""A handler that keeps one payload in force, and refuses others while the test says so."""

from __future__ import annotations

from pathlib import Path

from agentd.handler import Change, Context, Event, Handler, HandlerOptions, PermanentError

PATH = "picky/payload"


class Picky(Handler):
    """Each event's payload replaces the one before, in a file of the tree."""

    class Options(HandlerOptions):
        """Where the test says so."""

        unless: Path
        """While there is such a file, the payload in it is refused; everything, if it is empty."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._unless = options.unless

    def handle(self, change: Change, context: Context) -> None:
        """Take it or refuse it."""
        if isinstance(change, Event):
            if self._unless.exists() and self._unless.read_bytes() in (b"", change.payload):
                raise PermanentError("not here")
            context.files.write(PATH, change.payload)

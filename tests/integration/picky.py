"""A handler that keeps one payload in force, and refuses all while the test says so."""

from __future__ import annotations

from pathlib import Path

from agentd.handler import Change, Context, Event, Handler, HandlerOptions, PermanentError

PATH = "picky/payload"


class Picky(Handler):
    """Each event's payload replaces the one before, in a file of the tree."""

    class Options(HandlerOptions):
        """Where the test says so."""

        unless: Path
        """While there is such a file, everything is refused."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._unless = options.unless

    def handle(self, change: Change, context: Context) -> None:
        """Take it or refuse it."""
        if isinstance(change, Event):
            if self._unless.exists():
                raise PermanentError("not here")
            context.files.write(PATH, change.payload)

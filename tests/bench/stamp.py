"""A handler that writes down when it was entered, for the latency bench."""

from __future__ import annotations

import time
from pathlib import Path

from agentd.handler import Change, Context, Event, Handler, HandlerOptions


class Stamp(Handler):
    """Appends "payload time" to a file."""

    class Options(HandlerOptions):
        """Where to."""

        file: Path

    options: Options

    def handle(self, change: Change, context: Context) -> None:  # noqa: ARG002 (the interface)
        """Note the time first of all."""
        now = time.time()
        if isinstance(change, Event):
            with self.options.file.open("a") as out:
                out.write(f"{change.payload.decode()} {now:.6f}\n")

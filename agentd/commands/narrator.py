"""What a command tells while it runs, on standard error: its standard output is another program's.

One line each, for a person or (`--json`) one JSON object for a program. Never holds a payload or a token.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TextIO

from agentd.commands.output import printable


class Narrator:
    """Tells of steps if asked to (`verbose`), and of what went wrong in any case."""

    def __init__(self, stream: TextIO, *, as_json: bool, verbose: bool) -> None:
        self._stream = stream
        self._json = as_json
        self._verbose = verbose

    def tell(self, event: str, **fields: object) -> None:
        """Tell of a step: a constant dotted name, and its data."""
        if self._json:
            self._write(json.dumps({"event": event, **fields}))
        elif self._verbose:
            self._write(
                " ".join([f"agentd: {event}", *(f"{name}={value}" for name, value in fields.items())])
            )

    def warn(self, text: str) -> None:
        """Tell what went wrong, in a sentence."""
        self._write(json.dumps({"event": "warning", "text": text}) if self._json else f"agentd: {text}")

    def _write(self, line: str) -> None:
        with suppress(OSError):  # that nobody listens any more is no reason to stop
            self._stream.write(printable(line) + "\n")
            self._stream.flush()

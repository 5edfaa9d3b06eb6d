"""What a command says on standard error while it runs; standard output belongs to another program.

One line per step for a person, or (`--json`) one JSON object per step for a program. Never holds a payload or
a token.
"""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import suppress
from typing import Final, TextIO

from agentd.printable import printable

_WIDTH: Final = 24
_LASTING: Final = ("failed", "put back")


class Steps:
    """Reports steps if asked to (`verbose`), and errors in any case."""

    def __init__(self, stream: TextIO, *, as_json: bool, verbose: bool) -> None:
        self._stream = stream
        self._json = as_json
        self._verbose = verbose

    def tell(self, event: str, **fields: object) -> None:
        """Report a step: a constant dotted name, and its data."""
        if self._json:
            self._write(json.dumps({"event": event, **fields}))
        elif self._verbose:
            self._write(
                " ".join([f"agentd: {event}", *(f"{name}={value}" for name, value in fields.items())])
            )

    def warn(self, text: str) -> None:
        """Report what went wrong, in a sentence."""
        self._write(json.dumps({"event": "warning", "text": text}) if self._json else f"agentd: {text}")

    def _write(self, line: str) -> None:
        with suppress(OSError):  # it does not matter if nobody reads this any more
            self._stream.write(printable(line) + "\n")
            self._stream.flush()


class ProgressBar:
    """Shows the progress; `tell` may be called from any thread.

    Args:
        stream: standard error.
        total: number of servers.
        done: how many of them are done already.
        as_json: print one line of JSON per step.
    """

    def __init__(self, stream: TextIO, total: int, done: int, *, as_json: bool) -> None:
        self._stream = stream
        self._total = total
        self._done = done
        self._json = as_json
        self._live = stream.isatty() and not as_json
        self._telling = threading.Lock()

    def tell(self, server: str, step: str, text: str) -> None:
        """A server has reached a step."""
        with self._telling:
            self._done += step == "done"
            line = f"{server} {step}{f': {text}' if text else ''}"
            if self._json:
                self._write(
                    json.dumps({"event": "rolling.step", "server": server, "step": step, "text": text}) + "\n"
                )
            elif not self._live:
                self._write(f"agentd: {printable(line)}\n")
            elif step == "deploying":  # the command may print, so the line is its own
                self._write(f"{self._bar(line)}\n")
            else:
                lasting = f"\r\033[K{printable(line)}\n" if step in _LASTING else ""
                self._write(lasting + self._bar(line))

    def finish(self) -> None:
        """Leave the line to others."""
        with self._telling:
            if self._live:
                self._write("\r\033[K")

    def _bar(self, line: str) -> str:
        filled = _WIDTH * self._done // max(1, self._total)
        bar = f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {self._done}/{self._total} {printable(line)}"
        return f"\r\033[K{bar[: shutil.get_terminal_size().columns - 1]}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

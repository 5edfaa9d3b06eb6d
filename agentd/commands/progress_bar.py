"""How far a rolling is: a bar on a terminal, else a line a step, all on standard error."""

from __future__ import annotations

import json
import shutil
import threading
from typing import Final, TextIO

from agentd.commands.output import printable

_WIDTH: Final = 24
_LASTING: Final = ("failed", "put back")


class ProgressBar:
    """Told of steps from any thread.

    Args:
        stream: standard error.
        total: servers.
        done: of which are done already.
        as_json: a line of JSON a step.
    """

    def __init__(self, stream: TextIO, total: int, done: int, *, as_json: bool) -> None:
        self._stream = stream
        self._total = total
        self._done = done
        self._json = as_json
        self._live = stream.isatty() and not as_json
        self._telling = threading.Lock()

    def tell(self, server: str, step: str, text: str) -> None:
        """A server came to a step."""
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

"""A table on a terminal that is drawn again in place as its rows change."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Final, TextIO

from agentd.commands.output import Output

_NO_WRAP: Final = "\033[?7l"
_WRAP: Final = "\033[?7h"
_LINES_BESIDE: Final = 3  # the head, the line that counts the hidden rows, the cursor's own


class LiveTable:
    """One table; nothing else may print between two drawings.

    Args:
        output: prints to the terminal.
        stream: the same terminal, for moving about.
        columns: the head.
    """

    def __init__(self, output: Output, stream: TextIO, columns: Sequence[str]) -> None:
        self._output = output
        self._stream = stream
        self._columns = columns
        self._drawn = 0

    def draw(self, rows: Sequence[Sequence[object]]) -> None:
        """Draw as many rows as the terminal is high, the first ones; lines that are too long are cut."""
        fitting = max(1, shutil.get_terminal_size().lines - _LINES_BESIDE)
        hidden = max(0, len(rows) - fitting)
        self._erase()
        self._stream.write(_NO_WRAP)  # a wrapped line would take two, and be erased by half
        self._output.table(self._columns, rows[:fitting])
        if hidden:
            self._output.line(f"... and {hidden} more", "dim")
        self._stream.write(_WRAP)
        self._stream.flush()
        self._drawn = 1 + min(len(rows), fitting) + bool(hidden)

    def finish(self, rows: Sequence[Sequence[object]]) -> None:
        """Leave the whole table on the terminal."""
        self._erase()
        self._output.table(self._columns, rows)
        self._drawn = 0

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\033[{self._drawn}F\033[J")

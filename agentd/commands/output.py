"""What a command prints: aligned tables and lines for a person, or one JSON document for a program.

Owns colours, alignment, and that all of it passes `printable`: an outsider chose the name of an event, or a
part of an error. Knows nothing of what it prints.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal, TextIO

from agentd.printable import json_text, printable
from agentd.times import moment, span, universal
from agentd.trouble import BAD, DOUBTFUL, GOOD

__all__ = [
    "Colour",
    "LiveTable",
    "Output",
    "Screen",
    "moment",
    "shortened",
    "shown",
    "span",
    "universal",
]

Colour = Literal["red", "green", "yellow", "bold", "dim"]
_CODES: Final[dict[Colour, int]] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}
_NO_WRAP: Final = "\033[?7l"
_WRAP: Final = "\033[?7h"
_LINES_BESIDE: Final = 3  # the head, the line that counts the hidden rows, the cursor's own
_LEAST: Final = 20  # characters of a cell that are shown even where a line gets too long


class Output:
    """Standard output of one command.

    Attributes:
        json: whether a program reads it; then `document` is called once, and nothing else prints.
        width: characters in a line of the terminal; None if nothing may be cut, as in a pipe or a file.
    """

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        self.json = as_json
        self._stream = stream
        # `watch` reads from a pipe, and passes the size of its terminal in COLUMNS.
        fits = stream.isatty() or os.environ.get("COLUMNS")
        self.width = shutil.get_terminal_size().columns if fits else None
        # https://no-color.org
        self._coloured = stream.isatty() and not os.environ.get("NO_COLOR")
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character must not end us
            stream.reconfigure(errors="backslashreplace")

    def document(self, value: object, *, lines: bool = False) -> None:
        """Print one JSON document; `lines`: one of many, each on a line of its own."""
        self._stream.write(json_text(value, indent=None if lines else 2) + "\n")

    def line(self, text: str = "", colour: Colour | None = None) -> None:
        """Print one line for a person; nothing if a program reads."""
        if not self.json:
            self._stream.write(self._painted(printable(text), colour) + "\n")

    def json_line(self, value: object) -> None:
        """Print one JSON document of many, in one line, at once."""
        self._stream.write(json_text(value) + "\n")
        self._stream.flush()

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        empty: str = "",
        prose: Collection[str] = (),
    ) -> None:
        """Print rows under their columns, all but the last padded.

        Args:
            columns: their names.
            rows: a cell for each of them.
            empty: stands for no rows.
            prose: the columns whose text is cut where a line does not fit the terminal.
        """
        if rows:
            GrowingTable(self, columns, prose=prose).add(rows)
        else:
            self.line(empty)

    def aligned(self, cells: Sequence[str], widths: Sequence[int], colour: Colour | None = None) -> None:
        """Print cells that are printable, each padded to its width; without a colour each has its own."""
        painted = [self._painted(cell, colour or _colour(cell)) for cell in cells]
        self._stream.write(_aligned(cells, painted, widths) + "\n")

    def flush(self) -> None:
        """Have all of it read now."""
        self._stream.flush()

    def pairs(self, values: Mapping[str, object]) -> None:
        """Print "name  value" lines, aligned; a value of several lines is indented below its first."""
        width = max(map(len, values), default=0)
        for name, value in values.items():
            first, *others = _text(value).split("\n")
            cell = printable(first)
            title = self._painted(name.ljust(width), "bold")
            self._stream.write(f"{title}  {self._painted(cell, _colour(cell))}\n")
            for other in others:
                self.line(f"{'':{width}}  {other}".rstrip())

    def _painted(self, text: str, colour: Colour | None) -> str:
        return f"\033[{_CODES[colour]}m{text}\033[0m" if self._coloured and colour and text else text


class GrowingTable:
    """A table to which rows are added: a column is as wide as its widest cell so far.

    Args: as those of `Output.table`.
    """

    def __init__(self, output: Output, columns: Sequence[str], *, prose: Collection[str] = ()) -> None:
        self._output = output
        self._columns = columns
        self._prose = [columns.index(name) for name in prose]
        self._widths: list[int] = []

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """Print them; before the first ones, the head."""
        cells = [[printable(_text(cell)) for cell in row] for row in rows]
        headed, self._widths = (
            bool(self._widths),
            [
                max(least, *(len(cell) for cell in column))
                for least, *column in zip(self._widths or map(len, self._columns), *cells, strict=True)
            ],
        )
        widths = self._widths
        if self._output.width is not None:
            widths = _narrowed(widths, self._prose, self._output.width)
            cells = [[shortened(*one) for one in zip(row, widths, strict=True)] for row in cells]
        if not headed:
            self._output.aligned(self._columns, widths, "bold")
        for row in cells:
            self._output.aligned(row, widths)


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


class Screen:
    """The whole terminal, drawn anew each time: the first lines, as many as fit, each cut at its edge."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def draw(self, show: Callable[[Output], object]) -> None:
        """Have something print to an output, and put that on the screen in one go."""
        page = _Page()
        show(Output(page))
        lines = page.getvalue().splitlines()
        fitting = max(1, shutil.get_terminal_size().lines - 1)
        self._stream.write("\033[H\033[2J" + _NO_WRAP + "\n".join(lines[:fitting]) + "\n" + _WRAP)
        self._stream.flush()


class _Page(io.StringIO):
    """What will be on a terminal, so that it is coloured."""

    def isatty(self) -> bool:
        """It will be."""
        return True


def one_line(text: str | None) -> str:
    """The text in one line."""
    return " ".join((text or "").split())


def shortened(text: str, most: int) -> str:
    """The text, or its beginning, in at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _text(cell: object) -> str:
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)


def _narrowed(widths: Sequence[int], narrow: Sequence[int], room: int) -> list[int]:
    """The widths with which a line fits into `room`, as far as these columns can be made narrower."""
    found = list(widths)
    excess = sum(found) + 2 * (len(found) - 1) - room
    for at in sorted(narrow, key=lambda at: -found[at]):
        less = min(excess, found[at] - _LEAST)
        if less > 0:
            found[at] -= less
            excess -= less
    return found


def _aligned(plain: Sequence[str], painted: Sequence[str], widths: Sequence[int]) -> str:
    pads = [" " * (width - len(text)) for text, width in zip(plain, widths, strict=True)]
    return "  ".join(text + pad for text, pad in zip(painted, pads, strict=True)).rstrip()


def _colour(cell: str) -> Colour | None:
    if cell in GOOD:
        return "green"
    if cell in BAD:
        return "red"
    return "yellow" if cell in DOUBTFUL else None


def shown(value: Any) -> str:  # noqa: ANN401 (any JSON)
    """A JSON value in one line."""
    return json_text(value)

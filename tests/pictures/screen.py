"""A terminal's screen as SVG: text with its colours, for people and for programs that read aloud."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 8.4
"""Of a character of 14 pixels, as monospace fonts have it."""
LINE: Final = 20
PADDING: Final = 16
BAR: Final = 32
_SGR: Final = re.compile(r"\x1b\[([0-9;]*)m")
_COLOURS: Final = {
    "31": "#b42318", "32": "#116329", "33": "#8a4600", "34": "#0550ae", "35": "#6f42c1", "36": "#1b6b72",
    "2": "#57606a", "90": "#57606a",
}  # fmt: skip
"""Dark enough on white for everybody: at least 4.5 to 1."""


class Piece(NamedTuple):
    """Text of one look."""

    text: str
    colour: str
    bold: bool


def svg(text: str, *, title: str, description: str) -> str:
    """A picture of a screen.

    Args:
        text: what was printed, with its escape sequences of colour.
        title: stands in the window's bar.
        description: what the picture shows, for who cannot see it.
    """
    lines = text.rstrip("\n").split("\n")
    columns = max(len(_SGR.sub("", line)) for line in lines)
    width, height = round(columns * WIDTH + 2 * PADDING), BAR + LINE * len(lines) + PADDING
    rows = "".join(
        f'<text x="{PADDING}" y="{BAR + LINE * (at + 1) - 5}">{_row(line)}</text>\n'
        for at, line in enumerate(lines)
        if line.strip()
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">{escape(title)}</title>\n<desc id="d">{escape(description)}</desc>\n'
        "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "fill:#1f2328;white-space:pre}.b{font-weight:bold}.t{fill:#57606a;font-size:13px}</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="#fff"'
        ' stroke="#d0d7de"/>\n'
        f'<path d="M.5 {BAR - 4}H{width - 0.5}" stroke="#d0d7de"/>\n'
        f'<text class="t" x="{PADDING}" y="19">{escape(title)}</text>\n{rows}</svg>\n'
    )


def _row(line: str) -> str:
    made = []
    at = 0
    for piece in _pieces(line):
        words = f'fill="{piece.colour}" ' if piece.colour else ""
        words += 'class="b" ' if piece.bold else ""
        # Its place and length keep columns straight in whatever font there is.
        words += f'x="{PADDING + at * WIDTH:.1f}" textLength="{len(piece.text) * WIDTH:.1f}"'
        made.append(f"<tspan {words}>{escape(piece.text, quote=False)}</tspan>")
        at += len(piece.text)
    return "".join(made)


def _pieces(line: str) -> Iterator[Piece]:
    colour, bold, at = "", False, 0
    for found in (*_SGR.finditer(line), None):
        text = line[at : found.start() if found else None]
        if text:
            yield Piece(text, colour, bold)
        if found:
            at = found.end()
            for code in found[1].split(";"):
                if code in ("", "0"):
                    colour, bold = "", False
                bold = bold or code == "1"
                colour = _COLOURS.get(code, colour)

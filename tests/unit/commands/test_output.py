"""Tables, lines and JSON as commands print them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.output import Output, Screen, moment, span
from agentd.printable import json_text, printable


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def table_of(rows: list[tuple[object, ...]], stream: io.StringIO) -> list[str]:
    """Print the rows under three columns; return the lines."""
    Output(stream).table(("A", "LONG", "C"), rows)
    return stream.getvalue().splitlines()


def test_columns_line_up() -> None:
    """Each cell begins below its column's title; nothing stands to the right of the last."""
    lines = table_of([("aaaa", 1, "x"), ("b", None, "yy"), ("", True, False)], io.StringIO())
    assert lines == ["A     LONG  C", "aaaa  1     x", "b     -     yy", "-     yes   no"]


def test_no_rows_print_what_stands_for_them() -> None:
    """An empty table says so, without titles."""
    stream = io.StringIO()
    Output(stream).table(("A",), [], empty="Nothing.")
    assert stream.getvalue() == "Nothing.\n"


def test_terminal_gets_colours_that_do_not_shift_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its colour codes a coloured table is the plain one."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows: list[tuple[object, ...]] = [("applied", 1, "x"), ("failed", 22, "y"), ("waiting", 3, "z")]
    coloured, plain = table_of(rows, Terminal()), table_of(rows, io.StringIO())
    assert "\033[32mapplied\033[0m" in coloured[1]
    assert [re.sub(r"\033\[\d+m", "", line) for line in coloured] == plain


@given(st.lists(st.text(max_size=120), min_size=1, max_size=3), st.integers(1, 200))
def test_prose_is_cut_to_the_width_of_a_terminal(texts: list[str], width: int) -> None:
    """Nothing else is, and so much of it stays that one knows what it is about."""
    rows = [(f"name-{at}", text, "x") for at, text in enumerate(texts)]
    stream = io.StringIO()
    output = Output(stream)
    output.width = width
    output.table(("A", "NOTE", "B"), rows, prose=("NOTE",))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= max(width, len("name-0") + 2 + 20 + 2 + 1) for line in lines)
    assert all(row[0] in line and line.endswith("  x") for row, line in zip(rows, lines[1:], strict=True))


def test_nothing_is_cut_in_a_pipe() -> None:
    """Whatever reads there may look for the end of a line."""
    stream = io.StringIO()
    Output(stream).table(("A", "NOTE"), [("a", "word " * 400 + "end")], prose=("NOTE",))
    assert stream.getvalue().endswith("word end\n")


def test_a_terminal_cuts_at_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """And shows that it did."""
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((40, 24)))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Output(stream).table(("A", "NOTE"), [("a", "word " * 400)], prose=("NOTE",))
    assert stream.getvalue().splitlines()[1] == f"a  {'word ' * 6}word..."


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR takes the colours away from a terminal too."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in "".join(table_of([("failed", 1, "x")], Terminal()))


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    """Whatever an outsider named an event, a cell is printable and on one line."""
    stream = io.StringIO()
    Output(stream).table(("A",), [(text,)])
    assert len(stream.getvalue().split("\n")) == 3
    assert printable(text).isprintable()


def test_json_is_alone_on_the_stream() -> None:
    """Lines for a person do not spoil the document for a program."""
    stream = io.StringIO()
    output = Output(stream, as_json=True)
    output.line("hello")
    output.document({"a": ["ü"]})
    assert json.loads(stream.getvalue()) == {"a": ["ü"]}


def test_pairs_indent_further_lines() -> None:
    """A value of two lines keeps to its column."""
    stream = io.StringIO()
    Output(stream).pairs({"id": "1", "changed": "a\nb", "reason": ""})
    assert stream.getvalue().splitlines() == ["id       1", "changed  a", "         b", "reason   -"]


def test_stream_that_cannot_show_a_character_escapes_it() -> None:
    """An ASCII terminal shows an escape instead of ending the command."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output(stream).line("ü")
    stream.flush()
    assert raw.getvalue() == b"\\xfc\n"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (None, "-"),
        (0.0123, "12 ms"),
        (3.44, "3.4 s"),
        (310, "5 m 10 s"),
        (7380, "2 h 3 m"),
        (4 * 86400 + 3700, "4 d 1 h"),
    ],
)
def test_span_reads_as_a_person_says_it(seconds: float | None, text: str) -> None:
    """Durations have at most two units."""
    assert span(seconds) == text


def test_moment_of_nothing_is_a_dash() -> None:
    """What did not happen has no time."""
    assert moment(None) == "-"


@given(st.recursive(st.text(), lambda one: st.dictionaries(st.text(), one) | st.lists(one)))
def test_json_shows_no_character_that_steers_or_hides(value: object) -> None:
    """Whatever an outsider chose, the document reads as it was, and is printable."""
    text = json_text(value, indent=2)

    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == value


def test_a_document_leaves_other_letters_as_they_are() -> None:
    """It is read by people as well."""
    stream = io.StringIO()
    Output(stream, as_json=True).document({"é": "a\x9b\u202e\u2066\u200f\u061c\u2028\x7f\ud800\U000e0001日"})

    shown = r'"a\u009b\u202e\u2066\u200f\u061c\u2028\u007f\ud800\udb40\udc01日"'
    assert stream.getvalue() == f'{{\n  "é": {shown}\n}}\n'


def test_a_screen_shows_the_first_lines_each_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is left out, and nothing is wrapped."""
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((20, 4)))
    stream = io.StringIO()

    def show(page: Output) -> None:
        for at in range(9):
            page.line(f"line {at} " + "x" * 50)

    Screen(stream).draw(show)
    drawn = stream.getvalue()
    assert drawn.startswith("\033[H\033[2J\033[?7l")
    assert drawn.endswith("\033[?7h")
    assert [line.split()[1] for line in drawn.splitlines() if "line" in line] == ["0", "1", "2"]

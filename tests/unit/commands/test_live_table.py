"""A table that is drawn again in place."""

from __future__ import annotations

import io

import pytest

from agentd.commands.output import LiveTable, Output


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Of six lines, without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_second_drawing_erases_the_first(terminal: Terminal) -> None:
    """Head and rows."""
    table = LiveTable(Output(terminal), terminal, ["A"])
    table.draw([["1"], ["2"]])
    assert "\033[J" not in terminal.getvalue()
    table.draw([["3"]])
    assert terminal.getvalue().endswith("2\n\033[?7h\033[3F\033[J\033[?7lA\n3\n\033[?7h")


def test_no_more_rows_than_the_terminal_is_high(terminal: Terminal) -> None:
    """What has scrolled away could not be erased; the rest is counted, and the end shows all."""
    table = LiveTable(Output(terminal), terminal, ["A"])
    rows = [[f"row{number}"] for number in range(10)]
    table.draw(rows)
    assert "row2\n... and 7 more\n" in terminal.getvalue()
    table.finish(rows)
    assert "\033[5F\033[J" in terminal.getvalue()
    assert terminal.getvalue().endswith("row9\n")

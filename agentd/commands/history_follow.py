"""`agentd history --follow`: each change as it ends, until nobody wants to know any more.

Only reads the journal, so that it goes on while the daemon is restarted.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NoReturn

from agentd.commands.history import Row, cells, history_table, with_state
from agentd.commands.output import Output
from agentd.commands.places import open_journal
from agentd.errors import JournalError
from agentd.journal.history import Endings, Wanted, history
from agentd.printable import printable

_PAUSE: Final = 0.5  # seconds between two looks at the journal


def follow(state: Path, wanted: Wanted, limit: int, output: Output) -> NoReturn:
    """Print the last changes that ended, at most `limit`, and then each that ends.

    Raises:
        BrokenPipeError: nobody reads any more.
        FormatError: another version of agentd has taken over the journal.
    """
    table = history_table(output)
    for rows in _endings(state, wanted, limit):
        told = [with_state(row) for row in rows]
        if output.json:
            for row in told:
                output.json_line(row)
        elif told:
            table.add([cells(row, output) for row in told])
            output.flush()
        wait(sys.stdout.fileno(), _PAUSE)
    raise AssertionError  # they never end


def wait(descriptor: int, seconds: float) -> None:
    """Wait, or raise BrokenPipeError as soon as nobody reads what is written there."""
    poll = select.poll()
    poll.register(descriptor, 0)  # of errors it tells anyway
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def _endings(state: Path, wanted: Wanted, limit: int) -> Iterator[Sequence[Row]]:
    """What ended since the last time, again and again; whenever the journal's file was replaced, anew."""
    said = ""
    while True:
        try:
            for rows in _in_one_file(state, wanted, limit):
                said = ""
                yield rows
            warning = "the journal was replaced: what ended meanwhile is not shown; see `agentd history`"
        except JournalError as error:
            warning = f"{error}; looking again"
        if warning != said:
            sys.stderr.write(f"agentd: warning: {printable(warning)}\n")
            said = warning
        limit = 0
        yield ()


def _in_one_file(state: Path, wanted: Wanted, limit: int) -> Iterator[Sequence[Row]]:
    """The same, as long as the journal stays the same file."""
    journal = open_journal(state)
    if journal is None:
        raise JournalError(f"there is no journal in {state} any more")
    with closing(journal):
        file, endings = _identity(journal.path), Endings(journal)
        before = [row for row in history(journal, wanted, limit=limit) if row["outcome"]] if limit else []
        yield before[::-1]
        shown = {row["seq"] for row in before}  # they may have ended since `endings` began
        while _identity(journal.path) == file:
            yield [row for row in endings.new(wanted) if row["seq"] not in shown]


def _identity(path: Path) -> Any:  # noqa: ANN401 (to be compared)
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino

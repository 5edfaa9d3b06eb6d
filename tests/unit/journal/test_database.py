"""The journal's file: what is refused when it is opened, and stays as it is."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import FormatError, JournalError
from agentd.journal.commits import Commits
from agentd.journal.followed import Followed
from agentd.journal.history import history
from agentd.journal.journal import Journal
from agentd.journal.rows import SAME_ID, same_id
from agentd.journal.schema import FORMAT
from agentd.watch.changes import Event


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a journal is, or will be."""
    return tmp_path / "journal.db"


def write(file: Path, statement: str) -> None:
    """Let another program write to the file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(statement)


def newer(file: Path) -> None:
    """A later version's journal."""
    Journal(file).close()
    write(file, f"PRAGMA user_version = {FORMAT + 1}")


def killed(file: Path) -> None:
    """A later version's journal; it was killed, and its number is in the write-ahead log alone."""
    Journal(file).close()
    child = os.fork()
    if child == 0:
        database = sqlite3.connect(file, isolation_level=None)
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def foreign(file: Path) -> None:
    """Another program's database."""
    write(file, "CREATE TABLE other (value TEXT)")


# As much of it as the test needs.
FORMAT_2 = """
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, handler TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
    query TEXT NOT NULL, name TEXT, digest TEXT NOT NULL, idx TEXT NOT NULL, body TEXT,
    received REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0, generation INTEGER, outcome TEXT,
    reason TEXT NOT NULL DEFAULT '', paths TEXT NOT NULL DEFAULT '[]', started REAL, finished REAL,
    UNIQUE (handler, id)
);
CREATE TABLE commits (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, generation INTEGER NOT NULL, parent INTEGER NOT NULL,
    handler TEXT NOT NULL, at REAL NOT NULL, state TEXT NOT NULL
);
PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("found", [1, FORMAT + 1, 99, -1, 2**31 - 1])
def test_an_unknown_format_is_refused(file: Path, found: int) -> None:
    """The message names the file, what was found and what is known, and what to do."""
    Journal(file).close()
    write(file, f"PRAGMA user_version = {found}")

    with pytest.raises(FormatError) as refused:
        Journal(file)

    assert str(refused.value) == (
        f"{file} has format {found}, but this agentd only knows format {FORMAT}; nothing was changed:"
        " run the version of agentd that wrote it, or move it away to start from scratch"
    )


@pytest.mark.parametrize("made", [newer, killed, foreign])
def test_a_file_that_is_refused_stays_as_it_is(file: Path, made: Callable[[Path], None]) -> None:
    """Byte for byte, its write-ahead log included, so that whoever wrote it goes on."""
    made(file)
    log = Path(f"{file}-wal")
    before = file.read_bytes(), log.read_bytes() if log.exists() else b""

    for _ in range(2):
        with pytest.raises(FormatError, match=re.escape(str(file))):
            Journal(file)

    assert (file.read_bytes(), log.read_bytes() if log.exists() else b"") == before


def test_a_journal_of_the_format_before_is_brought_up_to_date(file: Path) -> None:
    """Nothing of it is lost, and the newest event in it is what was seen last."""
    before = {"ID": "e-2", "Name": "deploy", "Payload": None, "LTime": 7}
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript(FORMAT_2)
        for identity, raw in (("e-1", {**before, "ID": "e-1", "LTime": 6}), ("e-2", before)):
            database.execute(
                "INSERT INTO changes (handler, id, kind, query, digest, idx, body, received)"
                " VALUES ('h', ?, 'event', 'event', '', '9', ?, 1.0)",
                (identity, json.dumps(raw)),
            )

    for _ in range(2):
        with closing(Journal(file)) as journal:
            entries = journal.pending("h")
            assert [(one.id, one.change.epoch) for one in entries] == [("e-1", 0), ("e-2", 0)]
            assert journal.seen("event") == {"last": "e-2", "ltime": 7}


def test_a_journal_of_format_3_learns_to_follow_a_log(file: Path) -> None:
    """It has one table more, and keeps all that it had."""
    with closing(Journal(file)) as journal:
        journal.queue("h", Event("event", {"ID": "e-1", "Name": "ban", "Payload": "", "LTime": 1}))
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript("DROP TABLE followed; PRAGMA user_version = 3;")

    with closing(Journal(file, opened=False)) as journal:
        assert journal.database.open(mend=True) == ""
        assert [one.id for one in journal.pending("h")] == ["e-1"]
        assert Followed(journal).positions() == {}


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(file: Path, content: bytes) -> None:
    """Somebody wrote over it, or the disk lost it."""
    file.write_bytes(content)

    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(file)

    assert file.read_bytes() == content


def test_an_empty_file_becomes_a_journal(file: Path) -> None:
    """As does a file that is not there; the next start finds it."""
    file.touch()
    Journal(file).close()

    with closing(Journal(file)) as journal:
        assert history(journal) == []
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FORMAT,)


ASKED: dict[str, Callable[[Journal], object]] = {
    "backlog": lambda journal: journal.backlog(),
    "unproved": lambda journal: journal.unproved(),
    "pending": lambda journal: journal.pending("h"),
    "store": lambda journal: journal.store("h"),
    "last generation": lambda journal: journal.last_generation(),
    "last proved": lambda journal: Commits(journal).last_proved(),
    "revision": lambda journal: Commits(journal).revision("h"),
    "prove": lambda journal: Commits(journal).prove(5),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_at_every_change_is_found_by_an_index(
    file: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the history is, no statement reads all of it."""
    statements: list[str] = []

    class Traced(sqlite3.Connection):
        """Lets the test know what is executed."""

        def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 (whatever it takes)
            super().__init__(*arguments, **named)
            self.set_trace_callback(statements.append)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Traced))
    with closing(Journal(file)) as journal:
        statements.clear()
        ASKED[asked](journal)
        wanted = [f"EXPLAIN QUERY PLAN {one}" for one in statements if one.startswith(("SELECT", "UPDATE"))]
        steps = [row["detail"] for statement in wanted for row in journal.database.rows(statement)]

    assert wanted
    assert not {"SCAN changes", "SCAN commits"} & set(steps)


def test_an_entry_with_an_id_is_found_by_an_index(file: Path) -> None:
    """A node that catches up asks for a thousand of them."""
    with closing(Journal(file)) as journal:
        statement = f"EXPLAIN QUERY PLAN SELECT id FROM changes WHERE handler = ? AND {SAME_ID}"  # noqa: S608 (a constant)
        plan = [row["detail"] for row in journal.database.rows(statement, "h", *same_id("x"))]

    assert len(plan) == 1
    assert "(handler=? AND id>? AND id<?)" in plan[0]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_something_else_in_place_of_the_file_is_told(file: Path, make: Callable[[Path], None]) -> None:
    """It is not waited for, and only the daemon moves it away."""
    make(file)

    with pytest.raises(JournalError, match="something else is where the journal should be"):
        Journal(file)


@pytest.mark.parametrize("by", ["this process", "another", "a rescue of the deleted file"])
def test_its_state_tells_whether_anything_was_written(file: Path, by: str) -> None:
    """Reading leaves it as it is."""
    with closing(Journal(file)) as journal:
        Followed(journal).join("blacklist", "block")
        before = journal.database.state()
        Followed(journal).positions()
        untouched = journal.database.state()

        if by == "this process":
            Followed(journal).join("blacklist", "allow")
        elif by == "another":
            write(file, "DELETE FROM followed")
        else:
            file.unlink()
            journal.database.rescue()

        assert untouched == before
        assert journal.database.state() != before

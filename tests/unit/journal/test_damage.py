"""A journal whose file is deleted, replaced or damaged: what is noticed, kept and set aside."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agentd.errors import FormatError, JournalError
from agentd.journal import database as module
from agentd.journal.damage import set_aside
from agentd.journal.entry import Ending, Outcome
from agentd.journal.history import history, tidy
from agentd.journal.journal import Journal
from agentd.journal.schema import FORMAT
from tests.unit.apply.stand import event

EVENTS = 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "state" / "journal.db"


def filled(file: Path) -> Journal:
    """A journal with many events, half of them done."""
    journal = Journal(file)
    journal.receive([(event(f"e{number:03}", "x" * 200), ["h"]) for number in range(EVENTS)])
    done = journal.pending("h")[: EVENTS // 2]
    journal.end([Ending(entry, Outcome.APPLIED) for entry in done])
    return journal


def overwrite(file: Path, at: float, length: int) -> None:
    """Write garbage into it, at this part of its length."""
    with file.open("r+b") as out:
        out.seek(int(file.stat().st_size * at) // 4096 * 4096)
        out.write(b"\xa5" * length)


def into_a_directory(file: Path) -> None:
    """Put a directory in its place."""
    file.unlink()
    file.mkdir()
    (file / "x").touch()


LOSSES: dict[str, Callable[[Path], object]] = {
    "the file": lambda file: file.unlink(),
    "the log": lambda file: file.with_name("journal.db-wal").unlink(),
    "the index of the log": lambda file: file.with_name("journal.db-shm").unlink(),
    "the directory": lambda file: shutil.rmtree(file.parent),
    "moved away": lambda file: file.parent.rename(file.parent.with_name("away")),
    "a directory instead": into_a_directory,
    "another file instead": lambda file: (
        file.rename(file.with_name("old")).with_name("journal.db").write_bytes(b"not a database")
    ),
    "an older copy instead": lambda file: (
        shutil.copy(file, file.with_name("copy")),
        file.with_name("copy").rename(file),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_journal_that_is_lost_is_written_again_whole(file: Path, loss: str) -> None:
    """Nothing that was done is forgotten, since the file is still open."""
    with closing(filled(file)) as journal:
        before = history(journal, limit=1000)
        assert not journal.database.lost()
        LOSSES[loss](file)
        assert journal.database.lost()

        journal.database.rescue()

        assert not journal.database.lost()
        assert history(journal, limit=1000) == before
        journal.receive([(event("new"), ["h"])])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(Journal(file)) as again:
        assert len(history(again, limit=1000)) == EVENTS + 1
        assert again.database.damage() == ""


def test_a_journal_is_not_lost_by_being_used(file: Path) -> None:
    """Neither by itself nor by commands that come and go."""
    with closing(filled(file)) as journal:
        for number in range(5):
            assert not journal.database.lost()
            assert journal.database.damage() == ""
            with closing(Journal(file)) as command:
                command.receive([(event(f"c{number}"), ["h"])])
            tidy(journal, keep=0.0, replayable=0.0)


def test_a_rescue_that_was_cut_short_is_finished(file: Path) -> None:
    """The new file was complete, and had not got its name yet."""
    filled(file).close()
    file.rename(file.with_name(".journal.db.rescued"))

    with closing(Journal(file)) as journal:
        assert len(history(journal, limit=1000)) == EVENTS


def test_a_rescue_without_room_leaves_the_open_file_in_use(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again."""
    with closing(filled(file)) as journal:
        file.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(module, "damage_of", lambda *_: "no room for it")
            with pytest.raises(JournalError, match="cannot be written again: no room for it"):
                journal.database.rescue()
        assert len(history(journal, limit=1000)) == EVENTS
        journal.database._broken = ""
        journal.database.rescue()
        assert not journal.database.lost()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "overwritten in the middle": lambda file: overwrite(file, 0.5, 4096),
    "overwritten near the end": lambda file: overwrite(file, 0.9, 4096),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2 // 4096 * 4096),
    "truncated within a page": lambda file: os.truncate(file, file.stat().st_size - 1000),
    "its beginning overwritten": lambda file: overwrite(file, 0.0, 100),
    "all of it overwritten": lambda file: file.write_bytes(os.urandom(file.stat().st_size)),
    "a directory": into_a_directory,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_set_aside_at_the_start(file: Path, damage: str) -> None:
    """And a new one begun, which knows of each event that could be read what became of it."""
    filled(file).close()
    DAMAGES[damage](file)
    journal = Journal(file, opened=False)
    with closing(journal):
        told = journal.database.open(mend=True)

        assert "set aside as" in told
        rows = {row["id"]: row["outcome"] for row in history(journal, limit=1000)}
        expected = {f"e{n:03}": "applied" if n < EVENTS // 2 else None for n in range(EVENTS)}
        assert rows.items() <= expected.items()
        if damage.startswith(("overwritten", "truncated within")):
            assert len(rows) > EVENTS // 2
        assert journal.receive([(event("e000"), ["h"])]) == [] or "e000" not in rows
    aside = list(file.parent.glob("journal.db.damaged-*"))
    assert len(aside) == 1
    with closing(Journal(file)) as again:
        assert again.database.open(mend=True) == ""


def test_what_was_open_can_be_handled_after_a_salvage(file: Path) -> None:
    """Rows that cannot be parsed are left behind."""
    filled(file).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("UPDATE changes SET body = 'no JSON' WHERE id = 'e299'")
        db.execute("UPDATE changes SET kind = 'nonsense' WHERE id = 'e298'")
    overwrite(file, 0.5, 4096)
    journal = Journal(file, opened=False)
    with closing(journal):
        journal.database.open(mend=True)
        pending = {entry.id for entry in journal.pending("h")}

    assert pending
    assert not pending & {"e299", "e298"}


UNREADABLE = {
    "a body": "UPDATE changes SET body = 'no JSON' WHERE id = 'e299'",
    "a kind": "UPDATE changes SET kind = 'nonsense' WHERE id = 'e299'",
    "a time": "UPDATE changes SET received = 'noon' WHERE id = 'e299'",
    "an index": "UPDATE changes SET idx = 'x' WHERE id = 'e299'",
    "a text": "UPDATE changes SET query = CAST(x'ff' AS TEXT) WHERE id = 'e299'",
    "a store": "INSERT INTO store (handler, body) VALUES ('h', '{')",
    "a column": "ALTER TABLE changes RENAME COLUMN epoch TO epoc",
    "a table": "DROP TABLE watched",
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_sound_file_with_what_cannot_be_used_is_set_aside_as_well(file: Path, what: str) -> None:
    """Else the handler would stand still for ever, over this start and the next."""
    filled(file).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute(UNREADABLE[what])
    journal = Journal(file, opened=False)
    with closing(journal):
        assert "set aside as" in journal.database.open(mend=True)

        assert len(history(journal, limit=1000)) >= EVENTS // 2
        assert "e298" in {entry.id for entry in journal.pending("h")}
        assert journal.receive([(event("new"), ["h"])])
    with closing(Journal(file)) as again:
        assert again.database.open(mend=True) == ""


@pytest.mark.parametrize("what", ["a body", "a kind", "a text"])
def test_a_row_that_cannot_be_used_is_an_error_that_quotes_nothing(file: Path, what: str) -> None:
    """While the daemon runs: the next look at the file finds it."""
    with closing(filled(file)) as journal:
        with journal.database.transaction() as db:
            db.execute(UNREADABLE[what])

        with pytest.raises(JournalError) as found:
            journal.pending("h")

        assert not any(part in str(found.value) for part in ("no JSON", "nonsense", "\\xff", "\ufffd"))
        journal.database.flush()
        assert journal.database.damage()


def test_a_command_sets_nothing_aside(file: Path) -> None:
    """The daemon may have it open."""
    filled(file).close()
    DAMAGES["its beginning overwritten"](file)

    with pytest.raises(JournalError):
        Journal(file)

    assert [one.name for one in file.parent.iterdir()] == ["journal.db"]


def test_a_later_versions_journal_is_not_set_aside(file: Path) -> None:
    """It is refused, as by a command."""
    filled(file).close()
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")

    with pytest.raises(FormatError):
        Journal(file, opened=False).database.open(mend=True)

    assert not list(file.parent.glob("*.damaged-*"))


def test_only_some_damaged_journals_are_kept(file: Path) -> None:
    """A disk that damages one a day is not filled with them."""
    for _ in range(6):
        filled(file).close()
        overwrite(file, 0.0, 100)
        journal = Journal(file, opened=False)
        journal.database.open(mend=True)
        journal.close()
        file.unlink()

    assert len(list(file.parent.glob("*.damaged-*"))) == 3


def test_damage_at_run_time_is_noticed(file: Path) -> None:
    """By reading the file through once somebody has written to it."""
    with closing(filled(file)) as journal:
        journal.database.flush()
        assert journal.database.damage() == ""

        overwrite(file, 0.5, 4096)

        assert journal.database.damage()


def test_a_journal_that_cannot_be_written_says_so_until_it_can(file: Path) -> None:
    """As long as the last transaction failed."""
    with closing(filled(file)) as journal:
        journal.database._db.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalError):
            journal.receive([(event("a"), ["h"])])
        assert "cannot be written" in journal.database.trouble
        with pytest.raises(JournalError):
            journal.database.probe()

        journal.database._db.execute("PRAGMA query_only = OFF")
        journal.database.probe()
        assert journal.database.trouble == ""


def test_what_was_set_aside_is_not_kept_for_ever(tmp_path: Path) -> None:
    """It holds payloads that the journal itself would have wiped by now."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"no database")
    aside = set_aside(path)
    journal = Journal(path, clock=lambda: aside.stat().st_mtime + 100)

    tidy(journal, keep=1000, replayable=200)
    before = aside.exists()
    tidy(journal, keep=1000, replayable=50)

    assert (before, aside.exists()) == (True, False)

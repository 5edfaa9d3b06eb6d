"""The journal on the disk: superseded states leave it at once, and its size has a limit."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

import pytest

from agentd.errors import JournalError
from agentd.journal.commits import Commits
from agentd.journal.entry import Ending, Outcome
from agentd.journal.history import history, replay, tidy
from agentd.journal.journal import Journal
from agentd.journal.lapsed import lapsed
from agentd.journal.limit import Trimmed, trim
from agentd.journal.payloads import finish
from agentd.journal.plan import Plan
from tests.unit.apply.stand import Stand, event, state

MIB = 1 << 20


@pytest.fixture
def journal(stand: Stand) -> Journal:
    """An empty journal that may take 8 MiB."""
    stand.journal.most = 8 * MIB
    return stand.journal


def end(journal: Journal, outcome: Outcome = Outcome.APPLIED) -> None:
    """End all that waits for the handler."""
    journal.end([Ending(entry, outcome) for entry in journal.pending("h")])


def bodies(journal: Journal) -> list[bool]:
    """Which entries still have their payload, in order of arrival."""
    return [bool(row["whole"]) for row in journal.database.rows(
        "SELECT body IS NOT NULL AS whole FROM changes ORDER BY seq"
    )]  # fmt: skip


def on_disk(journal: Journal) -> int:
    """Bytes of all files of the journal."""
    return sum(file.stat().st_size for file in journal.path.parent.glob("journal.db*"))


# ---------------------------------------------------------------- superseded states


def test_a_state_that_ended_is_wiped_when_a_newer_one_arrives(journal: Journal) -> None:
    """Its row stays, for the history."""
    journal.receive([(state("first"), ["h"])])
    end(journal)

    journal.receive([(state("second", 2), ["h"])])

    assert bodies(journal) == [False, True]


def test_a_state_in_progress_is_wiped_when_it_ends(journal: Journal) -> None:
    """Its handler still works with it when the newer one arrives."""
    journal.receive([(state("first"), ["h"])])
    (entry,) = journal.pending("h")
    journal.receive([(state("second", 2), ["h"])])
    before = bodies(journal)

    journal.end([Ending(entry, Outcome.APPLIED)])

    assert (before, bodies(journal)) == ([True, True], [False, True])


def test_states_that_arrive_while_a_handler_is_busy_do_not_pile_up(journal: Journal) -> None:
    """The one in progress and the newest stay; those between end as expired, without their payload."""
    ended: list[Ending] = []
    journal.receive([(state("0", 1), ["h"])])
    journal.pending("h")

    for index in range(1, 6):
        journal.receive([(state(str(index), index + 1), ["h"])], ended=ended.append)

    assert bodies(journal) == [True, False, False, False, False, True]
    assert [(one.outcome, one.reason) for one in ended] == [(Outcome.EXPIRED, "a newer state arrived")] * 4
    assert [entry.seq for entry in journal.pending("h")] == [1, 6]


def test_the_newest_state_that_failed_keeps_its_payload(journal: Journal) -> None:
    """It will be tried again; that of another query does not replace it."""
    journal.receive([(state("x"), ["h"]), (state("y", key="other"), ["h"])])
    end(journal, Outcome.FAILED)

    assert bodies(journal) == [True, True]


def test_a_state_that_was_replaced_meanwhile_is_not_tried_again(journal: Journal) -> None:
    """Convergence looked just before the newer one arrived."""
    journal.receive([(state("x"), ["h"])])
    end(journal, Outcome.FAILED)
    (found,) = lapsed(journal, "h", ["key:site"])
    journal.receive([(state("y", 2), ["h"])])

    journal.try_again(found.seq, 1, 0.0)

    assert [entry.seq for entry in journal.pending("h")] == [2]


def test_a_replay_of_a_superseded_state_says_so(journal: Journal) -> None:
    """There is nothing to replay, and nothing to fire."""
    journal.receive([(state("x"), ["h"])])
    (entry,) = journal.pending("h")
    end(journal)
    journal.receive([(state("y", 2), ["h"])])

    with pytest.raises(JournalError, match="a newer state has replaced it"):
        replay(journal, entry.id)


def test_superseded_states_do_not_make_the_file_grow(journal: Journal) -> None:
    """60 states of 512 KiB come and go."""
    for index in range(60):
        journal.receive([(state(os.urandom(256 << 10).hex(), index), ["h"])])
        end(journal)

    assert on_disk(journal) < 10 * MIB


# ---------------------------------------------------------------- the limit


def flood(journal: Journal, count: int, *, wait: bool = False, size: int = 100_000) -> list[Trimmed]:
    """Receive so many events, as from Consul's ring, and compare with the limit after each."""
    done = []
    for number in range(count):
        name = f"{number:036d}"
        journal.receive([(event(name, "x" * size), ["h"])], listed=[name])
        if not wait:
            end(journal)
        done.append(trim(journal))
        assert on_disk(journal) < 8 * MIB
    return done


def test_the_oldest_history_goes_first(journal: Journal) -> None:
    """What is dropped is counted, and the newest stays."""
    dropped = sum(one.rows for one in flood(journal, 150))

    left = [int(row["id"]) for row in history(journal, limit=1000)]
    assert left == list(range(149, dropped - 1, -1))
    assert dropped > 50


def test_nothing_is_dropped_below_the_limit(journal: Journal) -> None:
    """Looking costs nothing and changes nothing."""
    assert not any(flood(journal, 20))


def test_what_has_not_ended_is_not_history(journal: Journal) -> None:
    """An event in the worker's hands, a commit that waits for its proof and the newest state stay."""
    journal.receive([(event("in hand"), ["other"]), (state("x"), ["h"])])
    in_hand = journal.pending("other")
    end(journal)

    flood(journal, 150)

    assert journal.pending("other") == in_hand
    assert [row["query"] for row in history(journal, limit=1000)][-2:] == ["key:site", "event"]
    assert bodies(journal)[:2] == [True, True]


def test_an_event_that_consul_still_lists_loses_only_its_payload(journal: Journal) -> None:
    """Its row is how it is known: without it, it would be handled again."""
    listed = [f"{number:036d}" for number in range(100)]
    for name in listed:
        journal.receive([(event(name, "x" * 100_000), ["h"])], listed=listed)
        end(journal)

    done = trim(journal)

    assert done.payloads > 0
    assert not any(journal.receive([(event(name), ["h"])]) for name in listed)


def test_events_that_wait_end_as_expired_if_they_are_too_much(journal: Journal) -> None:
    """The oldest that no worker has seen, each with an outcome that says why."""
    endings = [ending for one in flood(journal, 150, wait=True) for ending in one.endings]

    assert [int(one.entry.id) for one in endings] == list(range(len(endings)))
    assert {one.outcome for one in endings} == {Outcome.EXPIRED}
    assert "journal.max_size" in endings[0].reason
    assert len(journal.pending("h", 1000)) + len(endings) == 150


@pytest.mark.parametrize("listed", [[], None])
def test_of_small_events_that_wait_no_more_end_than_have_to(
    journal: Journal, listed: list[str] | None
) -> None:
    """Also before Consul's ring was listed, when no row of an event may go: then none of them ends."""
    waiting = [(event(f"{number:036d}", "x" * 600), ["h"]) for number in range(6000)]
    journal.receive(waiting, listed=listed)

    for _ in range(5):  # each is bounded in time
        trim(journal)

    left = journal.backlog()["h"]
    assert left == 6000 if listed is None else 1800 < left < 3000


def test_what_others_write_meanwhile_ends_nothing_that_waits(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is history left, which the next call drops."""
    for number in range(75):
        journal.receive([(event(f"{number:036d}", "x" * 100_000), ["h"])], listed=[])
        end(journal)
    journal.receive([(event("waits"), ["h"])], listed=[])
    used, enough = journal.database.used, []

    def busy() -> int:
        if (found := used()) < 0.8 * 8 * MIB:
            enough.append(found)
        return found if len(enough) <= 1 else 8 * MIB

    monkeypatch.setattr(journal.database, "used", busy)

    done = trim(journal)

    assert enough
    assert done.rows
    assert not done.endings


def test_events_that_wait_for_a_proof_end_if_they_are_too_much(journal: Journal) -> None:
    """Nginx cannot be proved for days, and events keep being committed; the reason says that they are."""
    commits, endings = Commits(journal), []
    for number in range(1, 151):
        journal.receive([(event(f"{number:036d}", "x" * 100_000), ["h"])], listed=[])
        (entry,) = journal.pending("h")
        commits.prepare(number, number - 1, Plan("h", seqs=(entry.seq,), notify=("p",), proved_by=("p",)))
        commits.complete(number)
        endings += trim(journal).endings
        assert on_disk(journal) < 8 * MIB

    assert {one.outcome for one in endings} == {Outcome.EXPIRED, Outcome.UNCHANGED}
    assert "not proved to be live" in next(one for one in endings if one.outcome is Outcome.EXPIRED).reason
    assert journal.pending("p")[-1].id == "generation-150"
    assert len(commits.prove(150)) + sum(one.outcome is Outcome.EXPIRED for one in endings) == 150


def test_a_file_that_had_grown_shrinks(journal: Journal) -> None:
    """An operator lowers the limit."""
    journal.most = 64 * MIB
    for number in range(200):
        journal.receive([(event(f"{number:036d}", "x" * 100_000), ["h"])], listed=[])
        end(journal)
    before = on_disk(journal)

    journal.most = 8 * MIB
    trim(journal)

    assert before > 20 * MIB
    assert on_disk(journal) < 8 * MIB


def test_a_file_of_an_earlier_version_shrinks(stand: Stand) -> None:
    """It was made without a way to give pages back."""
    journal = stand.journal
    for pragma in ("auto_vacuum=NONE", "user_version"):
        journal.database.rows(f"PRAGMA {pragma}")
    journal.database.rows("VACUUM")
    assert journal.database.rows("PRAGMA auto_vacuum")[0][0] == 0

    test_a_file_that_had_grown_shrinks(journal)


def test_a_reader_that_never_ends_is_told_and_does_not_fill_the_disk(journal: Journal) -> None:
    """The log cannot be emptied behind its back: beyond the limit, nothing more is received until it ends."""
    flood(journal, 5)
    reader = sqlite3.connect(journal.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM changes").fetchone()
    refused = 0
    for number in range(25):
        try:
            journal.receive([(event(f"n{number:035d}", "x" * 500_000), ["h"])], listed=[])
        except JournalError as error:
            refused += "end the process" in str(error)
        end(journal)
        trim(journal)
    during = trim(journal)
    most = on_disk(journal)
    reader.close()

    assert during.over
    assert refused
    assert most < 4 * 8 * MIB
    assert not trim(journal).over
    assert journal.receive([(event("later"), ["h"])])


def test_a_long_reason_is_kept_with_both_its_ends(journal: Journal) -> None:
    """A handler that quotes a payload of a megabyte would fill the disk with each change that it puts off."""
    journal.receive([(event(f"{number:036d}"), ["h"]) for number in range(100)])
    waiting = journal.pending("h")
    why = f"begin{'x' * MIB}end"

    journal.defer([entry.seq for entry in waiting], why, 0.0, failed=True)
    put_off = [row["reason"] for row in history(journal, limit=100)]
    journal.end([Ending(entry, Outcome.FAILED, why) for entry in waiting])
    failed = [row["reason"] for row in history(journal, limit=100)]

    assert on_disk(journal) < 8 * MIB
    for reason in (*put_off, *failed):
        assert (reason[:5], reason[-3:], str(len(why)) in reason) == ("begin", "end", True)


def test_a_long_log_that_nobody_reads_keeps_nothing_out(journal: Journal) -> None:
    """One answer of Consul was larger than the limit, or an operator has lowered it: the log is emptied."""
    journal.receive([(state(os.urandom(6 * MIB).hex()), ["h"])])
    before = journal.database.logged()

    assert journal.receive([(event("later"), ["h"])])
    assert before > 8 * MIB
    assert journal.database.logged() < MIB


def test_nobody_waits_for_a_reader_when_the_journal_is_tidied(journal: Journal) -> None:
    """The log is emptied later; until then, handlers and the status address would stand still."""
    flood(journal, 5)
    with closing(sqlite3.connect(journal.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM changes").fetchone()
        end(journal)
        began = time.monotonic()
        tidy(journal, keep=0, replayable=0)
        took = time.monotonic() - began
        owed = journal.database.owes_flush
    finish(journal)

    assert took < 9  # seconds; who waits for the reader does it for ten
    assert (owed, journal.database.owes_flush) == (True, False)


def test_a_file_of_an_earlier_version_shrinks_below_the_limit(stand: Stand) -> None:
    """Also where less of it is free than is in use: otherwise it would be over its limit for ever."""
    journal = stand.journal
    for pragma in ("auto_vacuum=NONE", "user_version"):
        journal.database.rows(f"PRAGMA {pragma}")
    journal.database.rows("VACUUM")
    journal.most = 64 * MIB
    for number in range(85):
        journal.receive([(event(f"{number:036d}", "x" * 100_000), ["h"])], listed=[])
        end(journal)
    before = on_disk(journal)

    journal.most = 8 * MIB
    trim(journal)

    assert before > 9 * MIB
    assert on_disk(journal) < 8 * MIB


def test_what_was_rescued_by_half_is_removed(journal: Journal) -> None:
    """A crash came while a deleted journal was written again: its copy would stay for ever."""
    journal.close()
    left = [journal.path.with_name(f".journal.db.rescued{suffix}") for suffix in ("", "-wal", "-shm")]
    for file in left:
        file.write_bytes(b"half of it")

    Journal(journal.path).close()

    assert not any(file.exists() for file in left)

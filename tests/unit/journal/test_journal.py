"""What the journal takes in, hands out and remembers."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.errors import JournalError
from agentd.handler import Event, Notification, Timer
from agentd.journal.entry import Ending, Entry, Outcome
from agentd.journal.history import Wanted, history, replay, tidy
from agentd.journal.journal import Journal
from tests.unit.apply.stand import Clock, Stand, event, state


def close(journal: Journal, *entries: Entry, outcome: Outcome = Outcome.APPLIED) -> None:
    """End entries."""
    journal.end([Ending(entry, outcome) for entry in entries])


@pytest.fixture
def journal(stand: Stand) -> Journal:
    """An empty journal."""
    return stand.journal


# ---------------------------------------------------------------- what comes in


def test_an_event_is_owed_once_by_its_id(journal: Journal) -> None:
    """The ring lists it again and again."""
    first = journal.receive([(event("a", "1"), ["h"])])
    second = journal.receive([(event("a", "1"), ["h"])])

    assert (first, second) == ([(event("a", "1"), ["h"])], [])
    assert [entry.id for entry in journal.pending("h")] == ["a"]


def test_an_event_that_ended_is_not_owed_again(journal: Journal) -> None:
    """Not even after a restart of everything but the journal."""
    journal.receive([(event("a"), ["h"])])
    close(journal, *journal.pending("h"))

    assert journal.receive([(event("a"), ["h"])]) == []
    assert journal.pending("h") == []


def test_a_change_is_owed_to_each_of_its_handlers(journal: Journal) -> None:
    """One may have had it, and another not."""
    journal.receive([(event("a"), ["one"])])

    told = journal.receive([(event("a"), ["one", "two"])])

    assert told == [(event("a"), ["two"])]
    assert journal.backlog() == {"one": 1, "two": 1}


def test_what_a_poller_remembers_is_recorded_with_the_changes(journal: Journal) -> None:
    """Also without a change: that something was missed is worth remembering."""
    assert journal.seen("event") is None

    journal.receive([(event("a"), ["h"])], seen=("event", {"last": "a"}))
    journal.receive([], seen=("event", {"last": "b"}))

    assert journal.seen("event") == {"last": "b"}


def test_an_event_keeps_its_epoch_and_that_it_has_no_date(journal: Journal) -> None:
    """Until it is handled; a replay is wanted now."""
    journal.receive([(replace(event("a"), epoch=3, undated=True), ["h"])])
    (entry,) = journal.pending("h")
    close(journal, entry)
    (again,) = replay(journal, "a")

    assert isinstance(entry.change, Event)
    assert isinstance(again.change, Event)
    assert (entry.change.epoch, entry.change.undated) == (3, True)
    assert (again.change.epoch, again.change.undated) == (3, False)


def test_a_state_with_a_lower_index_is_of_the_next_epoch(journal: Journal) -> None:
    """Consul was rebuilt, and its indexes began again: what comes now is newer than all before it."""
    epochs = []
    for index, value in ((900, "a"), (5, "b"), (6, "c"), (2, "d")):
        journal.receive([(replace(state(value), index=index), ["h"])])
        epochs.append(journal.pending("h")[-1].change.epoch)

    assert epochs == [0, 1, 1, 2]


def test_events_that_wait_are_known_by_their_ids(journal: Journal) -> None:
    """Those that a commit is about to take are left out."""
    journal.receive([(event("a"), ["h"]), (event("b"), ["h", "i"]), (event("c"), ["h"])])
    first, _, last = journal.pending("h")
    close(journal, last)

    assert sorted(journal.owed_events([first.seq])) == ["b"]


def test_a_state_is_new_if_its_content_differs(journal: Journal) -> None:
    """The index alone makes no news."""
    journal.receive([(state("1", 5), ["h"])])

    assert journal.receive([(state("1", 9), ["h"])]) == []
    assert journal.receive([(state("2", 9), ["h"])]) != []


def test_a_state_that_returns_is_new_again(journal: Journal) -> None:
    """A, B, A: the last A undoes B."""
    news = [journal.receive([(state(value, 5), ["h"])]) for value in ("1", "2", "1")]

    assert all(news)
    assert len({row["id"] for row in history(journal)}) == 3


def test_a_failed_transaction_takes_in_nothing(journal: Journal) -> None:
    """A snapshot is written down as a whole, or the poller asks again."""
    with pytest.raises(KeyError):
        journal.receive([(event("a"), ["h"]), (Event("event", {"Name": "without an ID"}), ["h"])])

    assert journal.pending("h") == []


def test_what_is_owed_by_name_is_owed_even_if_it_was_had(journal: Journal) -> None:
    """Two timers at one instant are two."""
    entries = [journal.queue("h", event("a")) for _ in range(3)]

    assert [entry.id for entry in entries] == ["a", "a#2", "a#3"]


# ---------------------------------------------------------------- replays


def test_a_replay_owes_the_change_again(journal: Journal) -> None:
    """Under its id with a number behind it."""
    journal.receive([(event("abcdef", "x"), ["one", "two"])])
    close(journal, *journal.pending("one"), *journal.pending("two"))

    made = replay(journal, "abcd", "two")

    assert [(entry.handler, entry.id) for entry in made] == [("two", "abcdef#2")]
    assert journal.pending("two")[0].change == event("abcdef", "x")


@pytest.mark.parametrize(
    "identity,complaint",
    [("zzzz", "no change 'zzzz'"), ("abc", "no change 'abc'"), ("abcd", "several IDs begin with")],
)
def test_a_replay_needs_an_id_that_names_one_change(journal: Journal, identity: str, complaint: str) -> None:
    """Unknown, too short, or the beginning of two."""
    journal.receive([(event("abcd-1"), ["h"]), (event("abcd-2"), ["h"])])

    with pytest.raises(JournalError, match=complaint):
        replay(journal, identity)


def test_a_replay_says_when_the_payload_is_gone(journal: Journal, stand: Stand) -> None:
    """`journal.replayable` wiped it."""
    journal.receive([(event("abcd"), ["h"])])
    close(journal, *journal.pending("h"))
    stand.clock.now += 100
    tidy(journal, keep=1000, replayable=10)

    with pytest.raises(JournalError, match="was wiped"):
        replay(journal, "abcd")


# ---------------------------------------------------------------- reconfiguration


def _applied(journal: Journal, *values: str) -> None:
    for index, value in enumerate(values):
        journal.receive([(state(value, index, key="a"), ["h"]), (state(value, index, key="b"), ["h"])])
        close(journal, *journal.pending("h"))


def test_a_reconfigured_handler_gets_its_newest_states_again(journal: Journal) -> None:
    """Other options may make other files of them."""
    journal.reconfigured("h", "1", {"key:a"})
    _applied(journal, "old", "new")

    changed = journal.reconfigured("h", "2", {"key:a", "key:b"})

    assert changed
    values = [entry.change.raw for entry in journal.pending("h")]
    assert values == [state("new", key="a").raw, state("new", key="b").raw]


def test_states_of_queries_that_it_no_longer_has_stay_away(journal: Journal) -> None:
    """The handler was taken off them."""
    journal.reconfigured("h", "1", {"key:a", "key:b"})
    _applied(journal, "new")

    journal.reconfigured("h", "2", {"key:b"})

    assert [entry.change.query for entry in journal.pending("h")] == ["key:b"]


def test_a_handler_as_before_gets_nothing_again(journal: Journal) -> None:
    """A restart alone owes nobody anything."""
    journal.reconfigured("h", "1", {"key:a", "key:b"})
    _applied(journal, "new")

    changed = journal.reconfigured("h", "1", {"key:a", "key:b"})

    assert not changed
    assert journal.pending("h") == []


def test_a_new_handler_has_nothing_to_get_again(journal: Journal) -> None:
    """Its pollers will bring what there is."""
    journal.reconfigured("h", "1", {"key:a"})

    assert journal.pending("h") == []


def test_a_state_that_still_waits_is_not_owed_twice(journal: Journal) -> None:
    """It will be handled by the handler as it is now."""
    journal.reconfigured("h", "1", {"key:site"})
    journal.receive([(state("x"), ["h"])])

    journal.reconfigured("h", "2", {"key:site"})

    assert len(journal.pending("h")) == 1


def test_events_are_not_owed_again_by_a_reconfiguration(journal: Journal) -> None:
    """An event is applied once."""
    journal.reconfigured("h", "1", {"event"})
    journal.receive([(event("a"), ["h"])])
    close(journal, *journal.pending("h"))

    journal.reconfigured("h", "2", {"event"})

    assert journal.pending("h") == []


# ---------------------------------------------------------------- outcomes


def test_an_entry_ends_once(journal: Journal) -> None:
    """The first outcome stands, and only that one is reported."""
    journal.receive([(event("a"), ["h"])])
    entry = journal.pending("h")[0]

    first = journal.end([Ending(entry, Outcome.REFUSED, "first")])
    second = journal.end([Ending(entry, Outcome.APPLIED, "second")])

    assert (len(first), len(second)) == (1, 0)
    assert history(journal)[0]["outcome"] == "refused"
    assert history(journal)[0]["reason"] == "first"


def test_an_ended_entry_is_not_put_off(journal: Journal) -> None:
    """A worker that was left behind may still try."""
    journal.receive([(event("a"), ["h"])])
    entry = journal.pending("h")[0]
    close(journal, entry)

    journal.defer([entry.seq], "late", 5.0, failed=True)

    assert history(journal)[0]["attempts"] == 0


def test_history_is_newest_first_and_has_no_payloads(journal: Journal) -> None:
    """And can be narrowed to a handler or an id."""
    journal.receive([(event("a1", "secret"), ["one", "two"]), (event("b1", "secret"), ["one"])])

    everything = history(journal)
    narrowed = history(journal, Wanted(handler="one", identity="a"))

    assert [row["id"] for row in everything] == ["b1", "a1", "a1"]
    assert [(row["handler"], row["id"]) for row in narrowed] == [("one", "a1")]
    assert "c2VjcmV0" not in str(everything)
    assert len(history(journal, limit=2)) == 2


# ---------------------------------------------------------------- tidying


def test_timed_work_that_changed_nothing_can_be_left_out(journal: Journal) -> None:
    """A feed that is asked every minute would hide all else on a page."""
    for at, outcome in enumerate((Outcome.UNCHANGED, Outcome.APPLIED, Outcome.REFUSED)):
        close(journal, journal.queue("h", Timer("timer", {"at": float(at)})), outcome=outcome)
    close(journal, journal.queue("h", event("a")), outcome=Outcome.UNCHANGED)
    journal.queue("h", Timer("timer", {"at": 9.0}))

    told = [row["outcome"] for row in history(journal, Wanted(idle=False))]

    assert told == [None, "unchanged", "refused", "applied"]


def test_payloads_are_wiped_from_the_file_itself(journal: Journal, stand: Stand) -> None:
    """Neither the database nor its log still holds the bytes."""
    journal.receive([(event("a", "correct horse battery"), ["h"])])
    close(journal, *journal.pending("h"))
    held = _holds(journal.path, event("a", "correct horse battery").raw["Payload"])
    stand.clock.now += 100

    tidy(journal, keep=1000, replayable=10)

    assert held
    assert not _holds(journal.path, event("a", "correct horse battery").raw["Payload"])


def _holds(path: Path, text: str) -> bool:
    return any(text.encode() in file.read_bytes() for file in path.parent.glob("journal.db*"))


def test_what_is_owed_is_never_wiped(journal: Journal, stand: Stand) -> None:
    """However old it is."""
    journal.receive([(event("a", "x"), ["h"])])
    stand.clock.now += 1e9

    tidy(journal, keep=1, replayable=1)

    assert journal.pending("h")[0].change == event("a", "x")


def test_the_newest_state_of_a_query_is_never_wiped(journal: Journal, stand: Stand) -> None:
    """A reconfiguration needs it."""
    journal.reconfigured("h", "1", {"key:a", "key:b"})
    _applied(journal, "old", "new")
    stand.clock.now += 1e9
    tidy(journal, keep=1, replayable=1)

    journal.reconfigured("h", "2", {"key:a"})

    assert [entry.change.raw for entry in journal.pending("h")] == [state("new", key="a").raw]


def test_old_rows_go_but_not_those_of_events_that_consul_still_lists(
    journal: Journal, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that it lists would otherwise be taken for a new one."""
    monkeypatch.setattr("agentd.journal.history._FEWEST", 0)
    changes = [(event(f"{n:036}"), ["h"]) for n in range(5)]
    journal.receive(changes, listed=[f"{3:036}"])
    close(journal, *journal.pending("h"))
    stand.clock.now += 100

    tidy(journal, keep=10, replayable=10)

    assert [row["id"] for row in history(journal)] == [f"{3:036}"]
    assert journal.receive(changes[3:4]) == []


def test_rows_of_events_stay_until_consul_was_asked(
    journal: Journal, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that starts while Consul is down does not know what it lists."""
    monkeypatch.setattr("agentd.journal.history._FEWEST", 0)
    journal.receive([(event("a"), ["h"])])
    journal.queue("h", Timer("timer", {"at": 1.0}))
    close(journal, *journal.pending("h"))
    journal.queue("h", Timer("timer", {"at": 2.0}))
    stand.clock.now += 100

    tidy(journal, keep=10, replayable=10)

    assert [row["id"] for row in history(journal)] == ["timer-2.000000", "a"]


def test_the_last_ten_thousand_rows_stay(journal: Journal, stand: Stand) -> None:
    """A slow ring lists events for weeks, and an agent that was down says nothing of it."""
    journal.receive([(event("a"), ["h"])])
    close(journal, *journal.pending("h"))
    stand.clock.now += 1e9

    tidy(journal, keep=1, replayable=1)

    assert len(history(journal)) == 1


# ---------------------------------------------------------------- the file


def test_the_file_is_for_agentd_alone(tmp_path: Path) -> None:
    """Payloads are in it, and in its log."""
    journal = Journal(tmp_path / "state" / "journal.db")
    journal.receive([(event("a"), ["h"])])

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    journal.close()


def test_a_journal_outlives_its_process(tmp_path: Path) -> None:
    """What was received is there when it is opened again."""
    clock = Clock()
    first = Journal(tmp_path / "journal.db", clock=clock)
    first.receive([(event("a", "x"), ["h"])])
    first.close()

    second = Journal(tmp_path / "journal.db", clock=clock)

    assert second.pending("h")[0].change == event("a", "x")
    second.close()


def test_two_processes_may_have_it_open(tmp_path: Path) -> None:
    """A command line adds to what the daemon reads."""
    daemon, command = Journal(tmp_path / "journal.db"), Journal(tmp_path / "journal.db")
    daemon.receive([(event("abcd"), ["h"])])

    replay(command, "abcd")

    assert [entry.id for entry in daemon.pending("h")] == ["abcd", "abcd#2"]
    daemon.close()
    command.close()


def test_many_threads_may_write(journal: Journal) -> None:
    """Pollers and workers share one connection."""
    threads = [
        threading.Thread(
            target=lambda n=n: [journal.receive([(event(f"{n}-{i}"), ["h"])]) for i in range(20)]
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(journal.pending("h")) == 80


def test_a_file_that_is_no_journal_is_told(tmp_path: Path) -> None:
    """The error names it."""
    (tmp_path / "journal.db").write_bytes(b"something else" * 1000)

    with pytest.raises(JournalError, match=r"journal\.db: the journal cannot be opened"):
        Journal(tmp_path / "journal.db")


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """As any other error of the system."""
    (tmp_path / "file").touch()

    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "file" / "journal.db")


def test_a_closed_journal_says_so(journal: Journal) -> None:
    """For reading and for writing."""
    journal.close()

    with pytest.raises(JournalError, match="is not open"):
        journal.pending("h")
    with pytest.raises(JournalError, match="is not open"):
        journal.receive([(event("a"), ["h"])])


def test_a_notification_round_trips(journal: Journal) -> None:
    """Every kind of change comes back as it went in."""
    raw = {"id": "generation-3", "generation": 3, "by": "x", "paths": ["a"], "rollback": True}
    journal.receive([(Notification("notify", raw), ["h"])])

    assert journal.pending("h")[0].change == Notification("notify", raw)

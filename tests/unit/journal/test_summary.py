"""What `agentd status` reads of each handler from the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentd.errors import PermanentError
from agentd.journal.entry import Ending, Outcome
from agentd.journal.summary import summary
from agentd.testing.changes import message
from agentd.watch.changes import KeyState, Timer
from tests.timing import TIMES, growth
from tests.unit.apply.stand import Scribe, Stand, event, settle
from tests.unit.apply.stand import state as a_state


def scribe(stand: Stand) -> dict[str, Any]:
    """The condition of the handler "scribe"."""
    return summary(stand.journal, ["scribe"])["scribe"]


def test_a_handler_without_any_change_has_nothing_to_tell(stand: Stand) -> None:
    """A fresh journal is no fault."""
    assert scribe(stand) == {
        "live": None,
        "waiting": 0,
        "waiting_since": None,
        "waiting_reason": "",
        "last_failure": None,
        "drift": [],
        "undone": [],
        "behind": None,
        "gauges": {},
        "status": [],
    }


def test_the_newest_generation_of_the_handler_itself_is_live(stand: Stand) -> None:
    """Not the one that another handler made after it."""
    one, other = stand.worker(Scribe()), stand.worker(Scribe(), "other")
    stand.receive(event("a", "write A=1"))
    settle(one)
    mine = stand.tree.current
    stand.receive(event("b", "write B=1"), handler="other")
    settle(other)

    assert scribe(stand)["live"] == mine
    assert summary(stand.journal, ["other"])["other"]["live"] == mine + 1


def test_a_generation_that_waits_for_its_proof_is_not_live(stand: Stand) -> None:
    """Its change is counted among those that wait."""
    worker = stand.worker(Scribe(), notify=["nginx"], provers=["nginx"])
    stand.receive(event("a", "write A=1"))
    settle(worker)

    assert scribe(stand)["live"] is None
    assert scribe(stand)["waiting"] == 1

    stand.committer.prove(stand.tree.current)

    assert scribe(stand)["live"] == stand.tree.current
    assert scribe(stand)["waiting"] == 0


def test_a_generation_that_was_rolled_back_is_not_live_until_it_is_current_again(stand: Stand) -> None:
    """What was undone serves nobody."""
    worker = stand.worker(Scribe())
    generations = []
    for value in "12":
        stand.receive(event(value, f"write A={value}"))
        settle(worker)
        generations.append(stand.tree.current)

    stand.committer.roll_back(generations[0], "by hand", ())
    back = scribe(stand)["live"]
    stand.committer.roll_back(generations[1], "by hand", ())

    assert (back, scribe(stand)["live"]) == (generations[0], generations[1])


def test_a_state_that_was_rolled_back_is_told_while_that_lasts(stand: Stand) -> None:
    """Nothing tries it again by itself, so Consul has something else than nginx."""
    worker = stand.worker(Scribe())
    generations = []
    for index in (1, 2):
        stand.receive(a_state(f"write A={index}", index))
        settle(worker)
        generations.append(stand.tree.current)
    before = scribe(stand)["undone"]

    stand.committer.roll_back(generations[0], "by hand", ())
    (undone,) = scribe(stand)["undone"]
    stand.committer.roll_back(generations[1], "by hand", ())

    assert (before, undone["query"], scribe(stand)["undone"]) == ([], "key:site", [])


def test_a_state_that_was_rolled_back_is_not_told_once_a_newer_one_is_there(stand: Stand) -> None:
    """Whether it is in force is told of that one."""
    worker = stand.worker(Scribe())
    for index in (1, 2):
        stand.receive(a_state(f"write A={index}", index))
        settle(worker)
    stand.committer.roll_back(1, "by hand", ())
    stand.clock.now += 1
    stand.receive(a_state("write A=3", 3))
    settle(worker)

    assert scribe(stand)["undone"] == []


def test_what_waits_is_told_with_its_age_and_its_reason(stand: Stand) -> None:
    """The oldest counts."""
    arrived = stand.clock.now
    stand.receive(event("a"))
    stand.clock.now += 5
    stand.receive(event("b"))
    stand.journal.defer([stand.journal.pending("scribe")[0].seq], "disk full", arrived + 60, failed=False)

    told = scribe(stand)

    assert (told["waiting"], told["waiting_since"], told["waiting_reason"]) == (2, arrived, "disk full")


def test_the_last_failure_is_told_even_after_a_success(stand: Stand) -> None:
    """With whether a later change ended well."""
    worker = stand.worker(handler := Scribe())
    handler.raises["no"] = [PermanentError("not like this")]
    stand.receive(event("a", "no"), event("b", "write A=1"))
    settle(worker)

    assert scribe(stand)["last_failure"] == {
        "change": "a",
        "outcome": "refused",
        "reason": "not like this",
        "at": stand.clock.now,
        "recovered": True,
    }


def test_a_message_of_its_name_makes_up_for_a_refused_event(stand: Stand) -> None:
    """A name that the fleet's log brings gets no good event any more; a message of another name does not."""
    bad = stand.journal.queue("scribe", event("a", "no"))
    stand.journal.end([Ending(bad, Outcome.REFUSED, "not like this")])
    recovered = []
    for num, name in enumerate(("other", "deploy"), 1):
        queued = stand.journal.queue("scribe", message(name, num=num))
        stand.journal.end([Ending(queued, Outcome.APPLIED)])
        recovered.append(scribe(stand)["last_failure"]["recovered"])

    assert recovered == [False, True]


def test_a_failure_that_nothing_followed_is_not_recovered(stand: Stand) -> None:
    """What ended well before it does not count."""
    worker = stand.worker(handler := Scribe())
    handler.raises["no"] = [PermanentError("not like this")]
    stand.receive(event("b", "write A=1"), event("a", "no"))
    settle(worker)

    assert scribe(stand)["last_failure"]["recovered"] is False


def test_timed_work_does_not_make_up_for_a_refused_change(stand: Stand) -> None:
    """The change is not live, whatever else went well since."""
    worker = stand.worker(handler := Scribe())
    handler.raises["no"] = [PermanentError("not like this")]
    stand.receive(event("a", "no"))
    settle(worker)
    timer = stand.journal.queue("scribe", Timer("timer", {"at": stand.clock.now}))
    stand.journal.end([Ending(timer, Outcome.APPLIED)])

    assert scribe(stand)["last_failure"]["recovered"] is False


def test_a_refused_state_stays_wrong_when_another_query_s_ends_well(stand: Stand) -> None:
    """Until the handler is configured to take it no longer."""
    bad = stand.journal.queue("scribe", KeyState("key:a", {"Key": "a", "Value": None, "ModifyIndex": 1}))
    good = stand.journal.queue("scribe", KeyState("key:b", {"Key": "b", "Value": None, "ModifyIndex": 2}))
    stand.journal.end([Ending(bad, Outcome.REFUSED, "not like this")])
    stand.journal.end([Ending(good, Outcome.APPLIED)])

    without = summary(stand.journal, ["scribe"], {"scribe": ["key:b"]})["scribe"]
    assert scribe(stand)["last_failure"]["recovered"] is False
    assert without["last_failure"] is None


def test_a_state_that_is_retried_is_behind_since_its_first_failure(stand: Stand) -> None:
    """Each retry fails anew, and starts no new time; after a success a failure does."""
    since = []
    for outcome in (Outcome.FAILED, Outcome.REFUSED, Outcome.APPLIED, Outcome.FAILED):
        stand.clock.now += 60
        state = KeyState("key:a", {"Key": "a", "Value": None, "ModifyIndex": 1})
        entry = stand.journal.queue("scribe", state)
        stand.journal.end([Ending(entry, outcome, "no")])
        behind = scribe(stand)["behind"]
        since.append(behind and behind["since"])

    assert since == [stand.clock.now - 180, stand.clock.now - 180, None, stand.clock.now]


def test_what_expired_is_no_failure(stand: Stand) -> None:
    """A newer state took its place."""
    stand.receive(event("a"))
    stand.journal.end([Ending(stand.journal.pending("scribe")[0], Outcome.EXPIRED, "a newer state arrived")])

    assert scribe(stand)["last_failure"] is None


def test_what_the_handler_publishes_is_told(stand: Stand) -> None:
    """Feeds and key ages are gauges of the store."""
    with stand.journal.database.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO store (handler, body) VALUES ('scribe', '{\"gauges\": {\"age\": 3}}')"
        )

    assert scribe(stand)["gauges"] == {"age": 3}


def filled(stand: Stand, commits: int) -> Stand:
    """With a history of so many."""
    with stand.journal.database.transaction() as db:
        db.executemany(
            "INSERT INTO commits (generation, parent, handler, at, state) VALUES (?, ?, 'scribe', 0, 'done')",
            ((number, number - 1) for number in range(1, commits + 1)),
        )
    assert scribe(stand)["live"] == commits
    return stand


def test_a_long_history_is_read_once(stand: Stand, tmp_path: Path) -> None:
    """A commit is not held against each later one."""
    more, less = filled(stand, 20_000), filled(Stand(tmp_path), 20_000 // TIMES)
    found = growth(scribe, less, more)
    less.journal.close()

    assert found.linear
